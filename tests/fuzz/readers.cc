#include "readers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "data/binidx.h"
#include "data/json_line.h"
#include "evaluation/items.h"
#include "formats/huggingface.h"
#include "formats/state_file.h"
#include "formats/tensor_source.h"
#include "models/load.h"
#include "tokenizers/load.h"
#include "checkpoints/load.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

// A file that is in memory only, but has a name: readers take paths.
class InMemoryFile {
 public:
  explicit InMemoryFile(std::span<const std::byte> bytes)
      : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    const bool written = descriptor_ >= 0 && ::write(descriptor_, bytes.data(), bytes.size()) ==
                                                 static_cast<ssize_t>(bytes.size());
    if (!written) std::abort();  // says nothing about the reader: must not pass as a refusal
  }
  ~InMemoryFile() { ::close(descriptor_); }
  InMemoryFile(const InMemoryFile&) = delete;
  InMemoryFile& operator=(const InMemoryFile&) = delete;
  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

// Reads so that a sanitizer sees each access.
void touch(std::span<const std::byte> bytes) {
  uint32_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<uint32_t>(byte);
  volatile uint32_t used = sum;
  (void)used;
}

// The tensors of any checkpoint, and the model they may be.
void read_tensors(const TensorSource& source) {
  TensorReader reader;
  for (const StoredTensor& tensor : source.tensors) {
    touch(
        {static_cast<const std::byte*>(reader.read(tensor)), static_cast<size_t>(tensor.bytes())});
  }
  model_from_tensors(model_tensors(source), MatrixType::kF32);
}

void read_checkpoint(std::span<const std::byte> bytes) {
  const InMemoryFile file(bytes);
  read_tensors(open_checkpoint(file.path()));
}

// A folder whose files are the parts of `bytes`, each ended by byte 0, under these names. The last
// part is the rest.
class Folder {
 public:
  Folder(std::span<const std::byte> bytes, std::initializer_list<const char*> names) {
    for (const char* name : names) {
      const bool last = name == *(names.end() - 1);
      const auto zero = std::find(bytes.begin(), bytes.end(), std::byte{0});
      const size_t size = last ? bytes.size() : static_cast<size_t>(zero - bytes.begin());
      files_.push_back(std::make_unique<InMemoryFile>(bytes.first(size)));
      std::filesystem::create_symlink(files_.back()->path(), path() / name);
      bytes = bytes.subspan(std::min(size + 1, bytes.size()));
    }
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
  std::vector<std::unique_ptr<InMemoryFile>> files_;
};

// config.json, then the weights.
void read_huggingface(std::span<const std::byte> bytes) {
  const Folder folder(bytes, {kConfigFile, kSafetensorsFile});
  read_tensors(open_checkpoint(folder.path()));
}

// config.json, then the index, then the only shard.
void read_huggingface_shards(std::span<const std::byte> bytes) {
  const Folder folder(bytes, {kConfigFile, "model.safetensors.index.json", "shard"});
  read_tensors(open_checkpoint(folder.path()));
}

void read_training(std::span<const std::byte> bytes) {
  static ThreadPool pool(1);
  const InMemoryFile file(bytes);
  load_checkpoint(file.path(), pool);
}

void read_tokenizer(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::unique_ptr<Tokenizer> tokenizer = parse_tokenizer(text, "input");
  // Some text that has a bit of everything, and the file itself. What is encoded comes back, unless
  // it is brought into another Unicode form.
  std::string sample =
      "Once  upon\n\n a time, 12345 \xF0\x9F\x98\x80 \xC3\xA9 <|endoftext|> \xFF\xFE";
  sample += text.substr(0, 2000);
  std::erase(sample, '\0');
  const std::vector<int32_t> ids = tokenizer->encode(sample);
  for (const int32_t id : ids) {
    if (id <= 0 || id >= tokenizer->vocab_size()) std::abort();
  }
  tokenizer->decode(ids);
  for (int32_t id = 0; id < std::min<int64_t>(tokenizer->vocab_size(), 3000); ++id) {
    tokenizer->bytes_of(id);
  }
}

// The index after its length in four bytes, then the tokens.
void read_binidx(std::span<const std::byte> bytes) {
  check(bytes.size() > 4) || fail("expected the length of the index");
  const size_t size = std::min<size_t>(load_at<uint32_t>(bytes, 0), bytes.size() - 4);
  const InMemoryFile idx(bytes.subspan(4, size)), bin(bytes.subspan(4 + size));
  const TemporaryFolder folder;
  std::filesystem::create_symlink(idx.path(), folder.path() / "data.idx");
  std::filesystem::create_symlink(bin.path(), folder.path() / "data.bin");
  const BinIdx data(folder.path() / "data");
  int64_t size_of_all = 0;
  for (int64_t i = 0; i < data.sequences(); ++i) size_of_all += data.size_of_sequence(i);
  if (size_of_all != data.tokens().size()) std::abort();
  uint64_t sum = 0;
  for (int64_t i = 0; i < size_of_all; ++i) sum += static_cast<uint64_t>(data.tokens()[i]);
  volatile uint64_t used = sum;
  (void)used;
}

void read_state(std::span<const std::byte> bytes) {
  const InMemoryFile file(bytes);
  read_state_file(file.path());
}

std::vector<std::string_view> lines_of(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// Texts and conversations to train on.
void read_documents(std::span<const std::byte> bytes) {
  for (const std::string_view line : lines_of(bytes)) parse_json_line(line, chat_template("world"));
}

// Items to evaluate on.
void read_items(std::span<const std::byte> bytes) {
  for (const std::string_view line : lines_of(bytes)) parse_item(line, ItemForm::kChoices, "input");
}

constexpr Reader kReaders[] = {
    {"pth", read_checkpoint},
    {"safetensors", read_checkpoint},
    {"ggmf", read_checkpoint},
    {"huggingface", read_huggingface},
    {"huggingface_shards", read_huggingface_shards},
    {"training_checkpoint", read_training},
    {"world", read_tokenizer},
    {"tokenizer_json", read_tokenizer},
    {"binidx", read_binidx},
    {"state", read_state},
    {"documents", read_documents},
    {"items", read_items},
};

}  // namespace

std::span<const Reader> readers() { return kReaders; }

}  // namespace rookery
