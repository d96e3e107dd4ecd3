#include "formats/safetensors.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "io/json.h"

namespace rookery {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kLongestHeader = 100'000'000;  // the limit of the format's own library
constexpr size_t kMostSizes = 64;                // of one tensor, with those that are 1
constexpr int64_t kDataAlignment = 64;
constexpr int kDeepest = 3;  // tensor -> entry -> list -> number
constexpr std::string_view kMetadata = "__metadata__";

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr TypeName kTypes[] = {{"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16}};

// Of the metadata that says which tensors of bytes are blocks: tensor -> entry -> list -> number.
constexpr int kDeepestBlocks = 3;
constexpr std::string_view kBytes = "U8";

const TypeName* find_type(std::string_view name) {
  for (const TypeName& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

struct Range {
  int64_t begin = 0, end = 0;  // bytes of the data part
};

// The field `data_offsets` of the tensor called `name`, within a data part of `size` bytes.
Range parse_range(const json& entry, const std::string& name, int64_t size,
                  const std::string& path) {
  const auto field = entry.find("data_offsets");
  check(field != entry.end() && field->is_array() && field->size() == 2) ||
      fail("tensor {} of '{}' has no data_offsets of two numbers: the file is damaged", name, path);
  const Range range{whole_number((*field)[0]), whole_number((*field)[1])};
  check(range.begin >= 0 && range.begin <= range.end && range.end <= size) ||
      fail(
          "tensor {} of '{}' claims the data bytes {}, the file has {}: it is cut short or "
          "damaged, copy or download it again",
          name, path, field->dump(), size);
  return range;
}

// Replaces `epsilon` by the number in the metadata, if there is one.
void read_epsilon(const std::map<std::string, std::string>& metadata, const char* key,
                  float& epsilon, const std::string& path) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return;
  const std::string& text = found->second;
  const char* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, epsilon);
  check(error == std::errc() && next == end && epsilon > 0 && epsilon < 1) ||
      fail(
          "the metadata {} of '{}' is '{}': expected a number between 0 and 1; the file is damaged",
          key, path, text);
}

// What the metadata says of a tensor of blocks.
struct Blocks {
  const BlockType* type;
  std::vector<int64_t> sizes;
};

// Takes the description of blocks out of the metadata.
std::map<std::string, Blocks> take_blocks(std::map<std::string, std::string>& metadata,
                                          const std::string& path) {
  std::map<std::string, Blocks> all;
  const auto text = metadata.find(kBlocks);
  if (text == metadata.end()) return all;
  const std::string what = fmt::format("the metadata {} of '{}'", kBlocks, path);
  const json entries = parse_json_text(text->second, kDeepestBlocks, what);
  check(entries.is_object()) || fail("{} is no JSON object: the file is damaged", what);
  for (const auto& [name, entry] : entries.items()) {
    const bool complete = entry.is_object() && entry.contains("type") &&
                          entry["type"].is_string() && entry.contains("shape") &&
                          entry["shape"].is_array() && entry["shape"].size() <= kMostSizes;
    check(complete) ||
        fail("{} has no type or no list of at most {} sizes for {}: the file is damaged", what,
             kMostSizes, name);
    const std::string& type = entry["type"].get_ref<const std::string&>();
    check(type == kQ8_0.name) ||
        fail("{} says that {} has the type {}: expected {}; convert it first", what, name, type,
             kQ8_0.name);
    Blocks blocks{&kQ8_0, {}};
    for (const json& size : entry["shape"]) blocks.sizes.push_back(whole_number(size));
    const std::optional<int64_t> count = count_of(blocks.sizes);
    check(count && !blocks.sizes.empty() && blocks.sizes.back() % kBlock == 0) ||
        fail(
            "{} gives {} the shape {}: expected whole numbers, the last a multiple of {}; the file "
            "is damaged",
            what, name, entry["shape"].dump(), kBlock);
    all[name] = std::move(blocks);
  }
  metadata.erase(text);
  return all;
}

}  // namespace

TensorSource read_safetensors(MappedFile file) {
  TensorSource source("safetensors", std::move(file));
  const std::span<const std::byte> bytes = source.file().bytes();
  const std::string path = source.file().path().string();
  check(bytes.size() >= 8) ||
      fail("'{}' has {} bytes: expected a safetensors file of at least 8; copy it again", path,
           bytes.size());
  const uint64_t claimed = load_at<uint64_t>(bytes, 0);
  const int64_t available = static_cast<int64_t>(bytes.size()) - 8;
  check(claimed <= static_cast<uint64_t>(std::min(available, kLongestHeader))) ||
      fail(
          "'{}' claims a header of {} bytes, expected at most {}: it is cut short or damaged, copy "
          "or download it again",
          path, claimed, std::min(available, kLongestHeader));
  const int64_t header_bytes = static_cast<int64_t>(claimed);
  const json header = parse_json_text(
      {reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(header_bytes)},
      kDeepest, fmt::format("the header of '{}'", path));
  check(header.is_object()) ||
      fail("the header of '{}' is no JSON object: the file is damaged", path);

  const std::byte* data = bytes.data() + 8 + header_bytes;
  const int64_t data_bytes = available - header_bytes;
  struct Placed {
    Range range;
    std::string name;
    DType dtype;
    Shape shape;
    const BlockType* blocks;  // null: plain numbers
  };
  std::vector<Placed> placed;
  if (const auto metadata = header.find(kMetadata); metadata != header.end()) {
    check(metadata->is_object()) ||
        fail("the entry {} of '{}' is no JSON object: the file is damaged", kMetadata, path);
    for (const auto& [key, value] : metadata->items()) {
      check(value.is_string()) ||
          fail("the metadata {} of '{}' is no text: the file is damaged", key, path);
      source.metadata[key] = value.get<std::string>();
    }
  }
  const std::map<std::string, Blocks> all_blocks = take_blocks(source.metadata, path);
  size_t with_blocks = 0;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) continue;
    check(entry.is_object()) ||
        fail("the entry {} of '{}' is no JSON object: the file is damaged", name, path);
    const auto type_field = entry.find("dtype"), shape_field = entry.find("shape");
    check(type_field != entry.end() && type_field->is_string() && shape_field != entry.end() &&
          shape_field->is_array() && shape_field->size() <= kMostSizes) ||
        fail(
            "tensor {} of '{}' has no dtype or no list of at most {} sizes as its shape: the file "
            "is damaged",
            name, path, kMostSizes);
    const std::string& type_name = type_field->get_ref<const std::string&>();
    const auto blocks = all_blocks.find(name);
    const bool has_blocks = blocks != all_blocks.end();
    with_blocks += has_blocks ? 1 : 0;
    const TypeName* type = find_type(type_name);
    check(has_blocks ? type_name == kBytes : type != nullptr) ||
        fail("tensor {} of '{}' has type {}: expected {}; convert it first", name, path, type_name,
             has_blocks ? "U8, as its metadata says that it is blocks" : "F32, F16 or BF16");
    std::vector<int64_t> sizes;
    for (const json& size : *shape_field) sizes.push_back(whole_number(size));
    const Range range = parse_range(entry, name, data_bytes, path);
    std::optional<int64_t> count = count_of(sizes);
    const int64_t length = range.end - range.begin;
    const int64_t element = has_blocks ? 1 : size_of(type->dtype);
    check(count && length % element == 0 && *count == length / element) ||
        fail(
            "tensor {} of '{}' has shape {} of type {} and {} bytes of data, which do not agree: "
            "the file is damaged",
            name, path, shape_field->dump(), type_name, length);
    if (has_blocks) {
      sizes = blocks->second.sizes;
      count = count_of(sizes);
      const int64_t block_bytes = blocks->second.type->bytes;
      check(length % block_bytes == 0 && *count / kBlock == length / block_bytes) ||
          fail(
              "tensor {} of '{}' has the shape {} in blocks of type {} and {} bytes of data, which "
              "do not agree: the file is damaged",
              name, path, json(sizes).dump(), blocks->second.type->name, length);
    }
    const std::optional<Shape> shape = shape_of(sizes);
    check(shape.has_value()) ||
        fail("tensor {} of '{}' has shape {}: expected at most {} sizes other than 1", name, path,
             json(sizes).dump(), Shape::kMaxRank);
    placed.push_back({range, name, has_blocks ? DType::kF32 : type->dtype, *shape,
                      has_blocks ? blocks->second.type : nullptr});
  }
  check(with_blocks == all_blocks.size()) ||
      fail("the metadata {} of '{}' names {} tensors, of which the file has {}: it is damaged",
           kBlocks, path, all_blocks.size(), with_blocks);

  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.range.begin, a.range.end) < std::pair(b.range.begin, b.range.end);
  });
  int64_t used = 0;
  for (Placed& item : placed) {
    check(item.range.begin >= used) ||
        fail("tensor {} of '{}' overlaps the one before it: the file is damaged", item.name, path);
    used = item.range.end;
    const std::byte* const numbers = data + item.range.begin;
    if (item.blocks == nullptr) {
      source.add(std::move(item.name), item.dtype, item.shape, numbers);
    } else {
      source.add_blocks(std::move(item.name), *item.blocks, item.shape, numbers);
    }
  }
  read_epsilon(source.metadata, kNormEpsilon, source.norm_epsilon, path);
  read_epsilon(source.metadata, kGroupNormEpsilon, source.group_norm_epsilon, path);
  return source;
}

void write_epsilons(const TensorSource& source, std::map<std::string, std::string>& metadata) {
  const TensorSource usual;
  metadata.erase(kNormEpsilon);
  metadata.erase(kGroupNormEpsilon);
  // The shortest text that gives the same float again.
  if (source.norm_epsilon != usual.norm_epsilon) {
    metadata[kNormEpsilon] = fmt::format("{}", source.norm_epsilon);
  }
  if (source.group_norm_epsilon != usual.group_norm_epsilon) {
    metadata[kGroupNormEpsilon] = fmt::format("{}", source.group_norm_epsilon);
  }
}

void write_safetensors(const std::filesystem::path& path, std::span<const StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const WriteProgress& progress) {
  // Blocks need no alignment, and come last.
  std::vector<const StoredTensor*> order;
  for (const int64_t element : {4, 2, 1}) {
    for (const StoredTensor& tensor : tensors) {
      if ((tensor.block_type != nullptr ? 1 : size_of(tensor.dtype)) == element) {
        order.push_back(&tensor);
      }
    }
  }
  check(order.size() == tensors.size()) ||
      fail("cannot write '{}': only f32, f16 and bf16 tensors and blocks can be stored",
           path.string());

  ordered_json header = ordered_json::object(), all_blocks = ordered_json::object();
  header[kMetadata] = nullptr;  // stands before the tensors, and is filled after them
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const StoredTensor* tensor : order) {
    check(!tensor->name.empty() && tensor->name != kMetadata &&
          names.insert(tensor->name).second) ||
        fail(
            "cannot write '{}': the name '{}' is empty, reserved or occurs twice; rename the "
            "tensor",
            path.string(), tensor->name);
    const Shape& shape = tensor->shape;
    ordered_json sizes = ordered_json::array();
    for (int axis = 0; axis < shape.rank(); ++axis) sizes.push_back(shape[axis]);
    std::string_view type_name = kBytes;
    if (const BlockType* blocks = tensor->block_type; blocks != nullptr) {
      const int64_t columns = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
      check(blocks == &kQ8_0 && tensor->dtype == DType::kF32 && columns % kBlock == 0) ||
          fail("cannot write '{}': tensor {} {} cannot be stored as {}", path.string(),
               tensor->name, shape.to_string(), blocks->name);
      all_blocks[tensor->name] = {{"type", blocks->name}, {"shape", sizes}};
      sizes.back() = bytes_in(*blocks, columns);
    } else {
      type_name = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeName& t) {
                    return t.dtype == tensor->dtype;
                  })->name;
    }
    const int64_t end = offset + tensor->stored_bytes();
    header[tensor->name] = {
        {"dtype", type_name}, {"shape", std::move(sizes)}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    std::map<std::string, std::string> all_metadata = metadata;
    all_metadata.erase(kBlocks);
    if (!all_blocks.empty()) all_metadata[kBlocks] = all_blocks.dump();
    if (all_metadata.empty()) {
      header.erase(std::string(kMetadata));
    } else {
      header[kMetadata] = all_metadata;
    }
    text = header.dump();
  } catch (const json::exception& problem) {
    fail("cannot write '{}': a name or metadata is not UTF-8 ({})", path.string(), problem.what());
  }
  const int64_t unpadded = static_cast<int64_t>(text.size()) + 8;
  text.append(static_cast<size_t>((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment),
              ' ');

  AtomicFile file(path);
  const uint64_t header_bytes = text.size();
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(text.data(), static_cast<int64_t>(text.size()));
  TensorReader reader;
  for (const StoredTensor* tensor : order) {
    if (tensor->block_type != nullptr) {
      write_blocks_of(file, *tensor, reader, progress);
    } else {
      write_numbers(file, reader.read(*tensor), tensor->bytes(), progress);
    }
  }
  file.commit();
}

}  // namespace rookery
