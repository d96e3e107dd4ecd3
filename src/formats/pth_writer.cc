#include "formats/pth_writer.h"

#include <zlib.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace rookery {
namespace {

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// -------------------------------------------------------------------------------------------------
// The archive. A member's size and CRC-32 stand before it: its numbers are there before they are
// written.

constexpr int64_t kAlignment = 64;
constexpr uint16_t kVersion = 0, kVersion64 = 45;  // of the format, that a reader must know
constexpr uint16_t kUtf8Names = 0x800, kStored = 0;
// The time stamps of no file: midnight of 1 January 1980, so that the same tensors give the same
// bytes.
constexpr uint16_t kTime = 0, kDate = 1 << 5 | 1;
constexpr uint32_t kIn64 = 0xffffffff;
constexpr uint16_t kCountIn64 = 0xffff;

class ZipWriter {
 public:
  ZipWriter(const std::filesystem::path& path, const ZipLimits& limits)
      : file_(path), limits_(limits) {}

  // Stored, its data at a multiple of kAlignment.
  void add(const std::string& name, const void* data, int64_t bytes,
           const WriteProgress& progress = {}) {
    const int64_t offset = file_.size();
    const uint32_t checksum = static_cast<uint32_t>(
        crc32_z(0, static_cast<const Bytef*>(data), static_cast<size_t>(bytes)));
    const bool size64 = bytes >= limits_.bytes;
    std::string header, extra;
    if (size64) append_extra64(extra, {bytes, bytes});
    // Padding, as PyTorch marks it.
    constexpr int64_t kFixedBytes = 30, kFieldBytes = 4;
    const int64_t unpadded = offset + kFixedBytes + static_cast<int64_t>(name.size()) +
                             static_cast<int64_t>(extra.size()) + kFieldBytes;
    const int64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
    extra += "FB";
    append(extra, static_cast<uint16_t>(padding));
    extra.append(static_cast<size_t>(padding), 'Z');

    append(header, uint32_t{0x04034b50});
    append_common(header, size64, checksum, bytes, name, extra);
    file_.write(header.data(), static_cast<int64_t>(header.size()));
    file_.write(name.data(), static_cast<int64_t>(name.size()));
    file_.write(extra.data(), static_cast<int64_t>(extra.size()));
    write_numbers(file_, data, bytes, progress);
    list(name, offset, bytes, checksum);
  }

  void commit() {
    const int64_t offset = file_.size(), bytes = static_cast<int64_t>(directory_.size());
    file_.write(directory_.data(), bytes);
    std::string end;
    const bool in64 =
        members_ >= limits_.members || offset >= limits_.bytes || bytes >= limits_.bytes;
    if (in64) {
      const int64_t record = file_.size();
      append(end, uint32_t{0x06064b50});
      append(end, uint64_t{44});  // bytes that follow in this record
      append(end, kVersion64);
      append(end, kVersion64);
      append(end, uint32_t{0});  // this disk
      append(end, uint32_t{0});  // the directory's disk
      for (const int64_t field : {members_, members_, bytes, offset}) append(end, field);
      append(end, uint32_t{0x07064b50});
      append(end, uint32_t{0});
      append(end, record);
      append(end, uint32_t{1});  // disks
    }
    append(end, uint32_t{0x06054b50});
    append(end, uint16_t{0});
    append(end, uint16_t{0});
    const auto count = in64 ? kCountIn64 : static_cast<uint16_t>(members_);
    append(end, count);
    append(end, count);
    append(end, in64 ? kIn64 : static_cast<uint32_t>(bytes));
    append(end, in64 ? kIn64 : static_cast<uint32_t>(offset));
    append(end, uint16_t{0});  // no comment
    file_.write(end.data(), static_cast<int64_t>(end.size()));
    file_.commit();
  }

 private:
  static void append_extra64(std::string& extra, const std::vector<int64_t>& numbers) {
    append(extra, uint16_t{1});
    append(extra, static_cast<uint16_t>(8 * numbers.size()));
    for (const int64_t number : numbers) append(extra, number);
  }

  // What the member's own header and its entry in the directory have alike.
  static void append_common(std::string& header, bool size64, uint32_t checksum, int64_t bytes,
                            const std::string& name, const std::string& extra) {
    append(header, size64 ? kVersion64 : kVersion);
    for (const uint16_t field : {kUtf8Names, kStored, kTime, kDate}) append(header, field);
    append(header, checksum);
    const uint32_t size = size64 ? kIn64 : static_cast<uint32_t>(bytes);
    append(header, size);
    append(header, size);
    append(header, static_cast<uint16_t>(name.size()));
    append(header, static_cast<uint16_t>(extra.size()));
  }

  void list(const std::string& name, int64_t offset, int64_t bytes, uint32_t checksum) {
    // All or none in 64 bits: PyTorch's reader checks 32-bit sizes against a marked offset.
    const bool in64 = bytes >= limits_.bytes || offset >= limits_.bytes;
    std::string extra;
    if (in64) append_extra64(extra, {bytes, bytes, offset});
    append(directory_, uint32_t{0x02014b50});
    append(directory_, in64 ? kVersion64 : kVersion);  // of the writer
    append_common(directory_, in64, checksum, bytes, name, extra);
    append(directory_, uint16_t{0});  // no comment
    append(directory_, uint16_t{0});  // disk
    append(directory_, uint16_t{0});  // attributes
    append(directory_, uint32_t{0});
    append(directory_, in64 ? kIn64 : static_cast<uint32_t>(offset));
    directory_ += name + extra;
    ++members_;
  }

  AtomicFile file_;
  ZipLimits limits_;
  std::string directory_;
  int64_t members_ = 0;
};

// -------------------------------------------------------------------------------------------------
// The pickle, protocol 2. The names of the operations are those of Python's pickletools.

std::string_view storage_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "FloatStorage";
    case DType::kF16:
      return "HalfStorage";
    case DType::kBF16:
      return "BFloat16Storage";
    default:
      fail("only f32, f16 and bf16 tensors can be stored, got {}", name_of(dtype));
  }
}

class PickleWriter {
 public:
  void opcodes(std::string_view text) { out_ += text; }
  void text(std::string_view value) {
    out_ += 'X';  // BINUNICODE
    append(out_, static_cast<uint32_t>(value.size()));
    out_ += value;
  }
  void number(int64_t value) {
    if (value >= 0 && value <= UINT8_MAX) {
      out_ += 'K';  // BININT1
      append(out_, static_cast<uint8_t>(value));
    } else if (value == static_cast<int32_t>(value)) {
      out_ += 'J';  // BININT
      append(out_, static_cast<int32_t>(value));
    } else {
      out_ += "\x8a\x08";  // LONG1 of eight bytes
      append(out_, value);
    }
  }
  void global(std::string_view module, std::string_view name) {
    out_ += fmt::format("c{}\n{}\n", module, name);
  }
  void tuple(const std::vector<int64_t>& numbers) {
    out_ += '(';  // MARK
    for (const int64_t n : numbers) number(n);
    out_ += 't';  // TUPLE
  }
  // _rebuild_tensor_v2(storage, 0, sizes, strides, False, OrderedDict())
  void tensor(const StoredTensor& tensor, std::string_view key) {
    const int rank = tensor.shape.rank();
    std::vector<int64_t> sizes, strides(static_cast<size_t>(rank));
    int64_t stride = 1;
    for (int axis = rank; axis-- > 0;) {
      strides[static_cast<size_t>(axis)] = stride;
      stride *= std::max<int64_t>(tensor.shape[axis], 1);
    }
    for (int axis = 0; axis < rank; ++axis) sizes.push_back(tensor.shape[axis]);
    global("torch._utils", "_rebuild_tensor_v2");
    opcodes("((");
    text("storage");
    global("torch", storage_of(tensor.dtype));
    text(key);
    text("cpu");
    number(tensor.shape.count());
    opcodes("tQ");  // TUPLE, BINPERSID
    number(0);
    tuple(sizes);
    tuple(strides);
    opcodes("\x89");  // NEWFALSE
    global("collections", "OrderedDict");
    opcodes(")RtR");  // EMPTY_TUPLE, REDUCE, TUPLE, REDUCE
  }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

std::string pickle_of(std::span<const StoredTensor> tensors) {
  PickleWriter pickle;
  pickle.opcodes("\x80\x02}(");  // PROTO 2, EMPTY_DICT, MARK
  for (size_t i = 0; i < tensors.size(); ++i) {
    pickle.text(tensors[i].name);
    pickle.tensor(tensors[i], fmt::format("{}", i));
  }
  pickle.opcodes("u.");  // SETITEMS, STOP
  return pickle.bytes();
}

}  // namespace

void write_pth(const std::filesystem::path& path, std::span<const StoredTensor> tensors,
               const WriteProgress& progress, const ZipLimits& limits) {
  std::set<std::string_view> names;
  for (const StoredTensor& tensor : tensors) {
    check(is_printable(tensor.name) && names.insert(tensor.name).second) ||
        fail(
            "cannot write '{}': the name '{}' is empty, not printable ASCII or occurs twice; "
            "rename the tensor",
            path.string(), tensor.name);
  }
  const std::string pickle = pickle_of(tensors);
  ZipWriter archive(path, limits);
  const auto add_text = [&](const char* name, std::string_view text) {
    archive.add(fmt::format("archive/{}", name), text.data(), static_cast<int64_t>(text.size()));
  };
  add_text("data.pkl", pickle);
  add_text("byteorder", "little");
  TensorReader reader;
  for (size_t i = 0; i < tensors.size(); ++i) {
    archive.add(fmt::format("archive/data/{}", i), reader.read(tensors[i]), tensors[i].bytes(),
                progress);
  }
  add_text("version", "3\n");
  archive.commit();
}

}  // namespace rookery
