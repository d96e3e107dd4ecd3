#include "formats/ggmf.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "quantization/blocks.h"

namespace rookery {
namespace {

using Bytes = std::span<const std::byte>;

// -------------------------------------------------------------------------------------------------
// The container.

struct TypeInfo {
  int32_t id;
  std::string_view name;
  DType dtype;              // in memory
  const BlockType* blocks;  // null: the numbers are as in memory

  int64_t elements() const { return blocks == nullptr ? 1 : kBlock; }  // that go together
  int64_t bytes() const { return blocks == nullptr ? size_of(dtype) : blocks->bytes; }  // of these
};

constexpr TypeInfo kTypes[] = {
    {0, "F32", DType::kF32, nullptr}, {1, "F16", DType::kF16, nullptr},
    {2, "Q4_0", DType::kF32, &kQ4_0}, {3, "Q4_1", DType::kF32, &kQ4_1},
    {7, "Q5_0", DType::kF32, &kQ5_0}, {8, "Q5_1", DType::kF32, &kQ5_1},
    {9, "Q8_0", DType::kF32, &kQ8_0},
};

// For messages only.
std::string name_of_other_type(int32_t id) {
  constexpr std::string_view kRemoved[] = {"Q4_1_O", "Q4_2", "Q4_3"};
  constexpr std::string_view kLater[] = {"Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"};
  if (id >= 4 && id <= 6) return std::string(kRemoved[id - 4]);
  if (id >= 10 && id <= 16) return std::string(kLater[id - 10]);
  return fmt::format("{}, which does not exist", id);
}

struct Header {
  int64_t version, vocabulary, channels, layers;
  const TypeInfo* type;
};

struct Entry {
  std::string name;
  const TypeInfo* type;
  Shape shape;  // slowest first
  Bytes bytes;
};

class Container {
 public:
  Container(Bytes bytes, std::string path) : bytes_(bytes), path_(std::move(path)) {
    read_header();
    while (at_ < static_cast<int64_t>(bytes_.size())) entries_.push_back(read_entry());
    require_all_layers();
  }

  const Header& header() const { return header_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const std::string& path() const { return path_; }

 private:
  Bytes take(int64_t length) {
    const int64_t left = static_cast<int64_t>(bytes_.size()) - at_;
    check(length <= left) || fail(
                                 "'{}': expected {} more bytes at offset {}, the file has {}: it "
                                 "is cut short or damaged, copy or download it again",
                                 path_, length, at_, left);
    const Bytes taken = bytes_.subspan(at_, length);
    at_ += length;
    return taken;
  }
  int32_t take_int() { return load_at<int32_t>(take(sizeof(int32_t)), 0); }

  const TypeInfo* find_type(int32_t id, std::string_view owner) const {
    for (const TypeInfo& type : kTypes) {
      if (type.id == id) return &type;
    }
    fail(
        "{} of '{}' has the type {}: expected F32, F16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0; convert "
        "the model again",
        owner, path_, name_of_other_type(id));
  }

  void read_header() {
    take_int();  // the magic number, by which the file was recognised
    header_.version = take_int();
    check(header_.version == 100 || header_.version == 101) ||
        fail("'{}' has version {} of the ggmf format: expected 100 or 101; convert the model again",
             path_, header_.version);
    header_.vocabulary = take_int();
    header_.channels = take_int();
    header_.layers = take_int();
    // Every layer has several tensors, so that this bound is generous, and a loop over the layers
    // short.
    check(header_.vocabulary > 0 && header_.channels > 0 && header_.layers > 0 &&
          header_.layers < static_cast<int64_t>(bytes_.size())) ||
        fail(
            "the header of '{}' claims a vocabulary of {}, {} channels and {} layers: the file is "
            "damaged",
            path_, header_.vocabulary, header_.channels, header_.layers);
    header_.type = find_type(take_int(), "the header");
    check(header_.version == 101 || header_.type->blocks == nullptr) ||
        fail(
            "'{}' is quantised in the old version 100 of the format: expected version 101; "
            "quantise the model again",
            path_);
  }

  Entry read_entry() {
    const int64_t start = at_;
    const int32_t rank = take_int(), name_bytes = take_int(), type_id = take_int();
    check(rank >= 1 && rank <= 3 && name_bytes >= 1) ||
        fail(
            "'{}' has a tensor of {} dimensions with a name of {} bytes at offset {}: expected 1 "
            "to 3 dimensions and a name; the file is damaged, copy or download it again",
            path_, rank, name_bytes, start);
    std::vector<int64_t> sizes;
    for (int32_t axis = 0; axis < rank; ++axis) sizes.push_back(take_int());
    const Bytes name = take(name_bytes);
    Entry entry{
        std::string(reinterpret_cast<const char*>(name.data()), name.size()), nullptr, {}, {}};
    entry.type = find_type(type_id, fmt::format("tensor {}", entry.name));
    const std::optional<int64_t> count = count_of(sizes);
    // Rows are quantised one by one, so that a block never spans two.
    check(count && *count > 0 && sizes[0] % entry.type->elements() == 0) ||
        fail(
            "tensor {} of '{}' claims the sizes {}: expected positive numbers, the first a "
            "multiple of {}; the file is damaged, copy or download it again",
            entry.name, path_, shape_of(sizes)->to_string(), entry.type->elements());
    const int64_t blocks = *count / entry.type->elements();
    check(blocks <= static_cast<int64_t>(bytes_.size())) ||
        fail(
            "tensor {} of '{}' has {} numbers, more than the file can hold: it is cut short or "
            "damaged, copy or download it again",
            entry.name, path_, *count);
    entry.bytes = take(blocks * entry.type->bytes());
    std::reverse(sizes.begin(), sizes.end());
    entry.shape = *shape_of(sizes);
    return entry;
  }

  // The format has no count of tensors: a file cut between two would look complete.
  void require_all_layers() const {
    for (const std::string_view name : {"emb.weight", "head.weight"}) {
      const auto found = std::find_if(entries_.begin(), entries_.end(),
                                      [&](const Entry& entry) { return entry.name == name; });
      check(found != entries_.end()) ||
          fail("'{}' has no {}: the file is cut short, copy or download it again", path_, name);
      const Shape expected{header_.vocabulary, header_.channels};
      check(found->shape == expected) ||
          fail("'{}': the header claims {} for {}, which has {}: the file is damaged", path_,
               expected.to_string(), name, found->shape.to_string());
    }
    std::vector<bool> seen(static_cast<size_t>(header_.layers));
    for (const Entry& entry : entries_) {
      const std::optional<int64_t> layer = layer_of(entry.name);
      if (layer && *layer < header_.layers) seen[static_cast<size_t>(*layer)] = true;
    }
    const int64_t present = std::count(seen.begin(), seen.end(), true);
    check(present == header_.layers) ||
        fail("'{}': expected {} layers, found tensors of {}: the file is cut short or damaged",
             path_, header_.layers, present);
  }

  // 12 for "blocks.12.something".
  static std::optional<int64_t> layer_of(std::string_view name) {
    constexpr std::string_view kBlocks = "blocks.";
    if (!name.starts_with(kBlocks)) return std::nullopt;
    int64_t layer = 0;
    size_t at = kBlocks.size();
    for (; at < name.size() && name[at] >= '0' && name[at] <= '9' && layer < (int64_t{1} << 31);
         ++at) {
      layer = 10 * layer + (name[at] - '0');
    }
    if (at == kBlocks.size() || at == name.size() || name[at] != '.') return std::nullopt;
    return layer;
  }

  Bytes bytes_;
  std::string path_;
  int64_t at_ = 0;
  Header header_{};
  std::vector<Entry> entries_;
};

// -------------------------------------------------------------------------------------------------
// Back to what the training code stores.

enum class Generation { k4, k5, k6, k7 };

// The number d that training stored, from the exponential in the file. Where float32 has rounded
// the decay to exactly 0 or 1 the logarithm would be infinite; the nearest d is taken for which
// float32 rounds the same way.

// u = exp(d)
double undo_exp(double u) {
  constexpr double kSmallest = 0x1p-151;  // a quarter of the smallest float: rounds to 0
  return std::log(std::max(u, kSmallest));
}

// w = -exp(d)
double undo_negative_exp(double w) { return undo_exp(-w); }

// w = exp(-exp(d))
double undo_double_exp(double w) {
  constexpr double kSmallest = 0x1p-151, kLargest = 1 - 0x1p-26;  // round to 0 and 1
  return std::log(-std::log(std::clamp(w, kSmallest, kLargest)));
}

struct Undo {
  double (*function)(double);
  double least, most;  // of the numbers in the file
};
constexpr Undo kExp = {undo_exp, 0, INFINITY};
constexpr Undo kNegativeExp = {undo_negative_exp, -INFINITY, 0};
constexpr Undo kDoubleExp = {undo_double_exp, 0, 1};

// The numbers of an entry where they stand in the file, or of a part of it.
class Numbers {
 public:
  explicit Numbers(const Entry& entry)
      : type_(entry.type), first_(entry.bytes.data()), count_(entry.shape.count()) {}

  bool quantised() const { return type_->blocks != nullptr; }
  DType dtype() const { return type_->dtype; }
  int64_t count() const { return count_; }
  const std::byte* first() const { return first_; }

  // `first` and `count` are whole blocks: rows are.
  Numbers part(int64_t first, int64_t count) const {
    Numbers result = *this;
    result.first_ = at(first);
    result.count_ = count;
    return result;
  }
  void read(int64_t first, int64_t count, void* to) const {
    assert(first % type_->elements() == 0 && count % type_->elements() == 0);
    if (quantised()) {
      read_blocks(*type_->blocks, at(first), count, static_cast<float*>(to));
    } else {
      std::memcpy(to, at(first), static_cast<size_t>(count * type_->bytes()));
    }
  }

 private:
  const std::byte* at(int64_t element) const {
    return first_ + element / type_->elements() * type_->bytes();
  }

  const TypeInfo* type_;
  const std::byte* first_;
  int64_t count_;
};

template <class F>
void each_number(const Numbers& numbers, F f) {
  alignas(float) std::byte piece[kBlock * sizeof(float)];
  for (int64_t first = 0; first < numbers.count(); first += kBlock) {
    const int64_t count = std::min(kBlock, numbers.count() - first);
    numbers.read(first, count, piece);
    for (int64_t i = 0; i < count; ++i) {
      f(first + i, numbers.dtype() == DType::kF32
                       ? load_at<float>(piece, i * int64_t{4})
                       : to_float(load_at<Float16>(piece, i * int64_t{2})));
    }
  }
}

class Restorer {
 public:
  Restorer(const Container& container, TensorSource& source)
      : container_(container), source_(source) {
    const auto has = [&](std::string_view suffix) {
      return std::any_of(container.entries().begin(), container.entries().end(),
                         [&](const Entry& entry) { return entry.name.ends_with(suffix); });
    };
    if (has(".att.r_k")) {
      generation_ = Generation::k7;
    } else if (has(".att.time_maa_x")) {
      generation_ = Generation::k6;
    } else if (has(".att.ln_x.weight")) {
      generation_ = Generation::k5;
    }
  }

  Generation generation() const { return generation_; }

  void restore(const Entry& entry) {
    Shape shape = entry.shape;
    const std::string_view name = name_in_block(entry.name);
    const auto is_one_of = [&](std::initializer_list<std::string_view> names) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    if (name == "att.time_decay") {
      shape = generation_ == Generation::k6 ? Shape{1, 1, shape.count()} : per_head(shape);
      if (generation_ == Generation::k4) return add_undone(entry, shape, kNegativeExp);
      if (generation_ == Generation::k5) return add_undone(entry, shape, kDoubleExp);
    } else if (name == "att.time_first") {
      shape = per_head(shape);
      if (generation_ == Generation::k5) return add_undone(entry, shape, kExp);
    } else if (name == "att.time_faaaa") {
      shape = per_head(shape);
    } else if (name == "att.x_rwkvag") {
      return add_split(entry);
    } else if (is_one_of({"att.time_maa_w1", "att.time_maa_w2", "att.time_decay_w1",
                          "att.time_decay_w2", "att.w1", "att.w2", "att.a1", "att.a2", "att.v1",
                          "att.v2", "att.g1", "att.g2"})) {
      return add_transposed(entry);
    } else if (name.starts_with("att.time_m") || name.starts_with("ffn.time_m") ||
               is_one_of({"att.w0", "att.a0", "att.v0", "att.k_k", "att.k_a", "ffn.x_k"})) {
      shape = {1, 1, shape.count()};
    }
    add(entry.name, shape, Numbers(entry));
  }

 private:
  // "att.w1" of "blocks.3.att.w1".
  static std::string_view name_in_block(std::string_view name) {
    if (!name.starts_with("blocks.")) return {};
    const size_t dot = name.find('.', sizeof("blocks.") - 1);
    return dot == std::string_view::npos ? std::string_view() : name.substr(dot + 1);
  }

  // [H, N, 1] and [H, 1, 1], as the converter pads them, without the padding.
  static Shape per_head(const Shape& shape) {
    int rank = shape.rank();
    while (rank > 1 && shape[rank - 1] == 1) --rank;
    Shape result;
    for (int axis = 0; axis < rank; ++axis) result.push_back(shape[axis]);
    return result;
  }

  void add_made(std::string name, DType dtype, const Shape& shape,
                std::function<void(void* to)> make) {
    source_.tensors.push_back({std::move(name), dtype, shape, nullptr, std::move(make)});
  }

  void add(std::string name, const Shape& shape, const Numbers& numbers) {
    if (!numbers.quantised()) {
      source_.add(std::move(name), numbers.dtype(), shape, numbers.first());
    } else {
      add_made(std::move(name), numbers.dtype(), shape,
               [numbers](void* to) { numbers.read(0, numbers.count(), to); });
    }
  }

  // f32 numbers, each put through `undo`. Throws unless all are within its limits.
  void add_undone(const Entry& entry, const Shape& shape, const Undo& undo) {
    const Numbers numbers(entry);
    each_number(numbers, [&](int64_t i, double stored) {
      check(stored >= undo.least && stored <= undo.most && std::isfinite(stored)) ||
          fail(
              "'{}': number {} of {} is {}, expected one from {} to {}: the file is damaged or not "
              "made by rwkv.cpp's converter",
              container_.path(), i, entry.name, stored, undo.least, undo.most);
    });
    add_made(entry.name, DType::kF32, shape, [numbers, function = undo.function](void* to) {
      each_number(numbers, [&](int64_t i, double stored) {
        static_cast<float*>(to)[i] = static_cast<float>(function(stored));
      });
    });
  }

  // With the last two axes swapped. Read row by row, so that no second copy of the tensor is made.
  void add_transposed(const Entry& entry) {
    Shape shape = entry.shape;
    const int rank = shape.rank();
    check(rank >= 2) || fail("'{}': tensor {} has shape {}, expected a matrix: the file is damaged",
                             container_.path(), entry.name, shape.to_string());
    const int64_t rows = shape[rank - 2], cols = shape[rank - 1];
    std::swap(shape[rank - 2], shape[rank - 1]);
    const Numbers numbers(entry);
    add_made(entry.name, numbers.dtype(), shape, [numbers, rows, cols](void* to) {
      const int64_t element = size_of(numbers.dtype()), all_rows = numbers.count() / cols;
      std::vector<std::byte> row(static_cast<size_t>(cols * element));
      for (int64_t r = 0; r < all_rows; ++r) {
        numbers.read(r * cols, cols, row.data());
        std::byte* const matrix = static_cast<std::byte*>(to) + r / rows * rows * cols * element;
        for (int64_t c = 0; c < cols; ++c) {
          std::memcpy(matrix + (c * rows + r % rows) * element, row.data() + c * element,
                      static_cast<size_t>(element));
        }
      }
    });
  }

  // The converter lays the six vectors end to end, in the order that the name says.
  void add_split(const Entry& joined) {
    constexpr std::string_view kOrder = "rwkvag";
    const int64_t parts = static_cast<int64_t>(kOrder.size());
    check(joined.shape[0] == parts) ||
        fail("'{}': tensor {} has shape {}, expected {} vectors: the file is damaged",
             container_.path(), joined.name, joined.shape.to_string(), parts);
    const std::string stem = joined.name.substr(0, joined.name.size() - kOrder.size());
    const int64_t count = joined.shape.count() / parts;
    const Numbers numbers(joined);
    for (int64_t part = 0; part < parts; ++part) {
      add(stem + kOrder[part], Shape{1, 1, count}, numbers.part(part * count, count));
    }
  }

  const Container& container_;
  TensorSource& source_;
  Generation generation_ = Generation::k4;
};

}  // namespace

TensorSource read_ggmf(MappedFile file) {
  TensorSource source("ggmf", std::move(file));
  const Container container(source.file().bytes(), source.file().path().string());
  Restorer restorer(container, source);
  for (const Entry& entry : container.entries()) restorer.restore(entry);
  if (restorer.generation() == Generation::k5) source.group_norm_epsilon = 1e-5f;
  source.metadata["weight_type"] = container.header().type->name;
  return source;
}

}  // namespace rookery
