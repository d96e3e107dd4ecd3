#include "formats/safetensors.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "core/json.h"

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
  check(field != entry.end() && field->is_array() && field->size() == 2,
        "tensor {} of '{}' has no data_offsets of two numbers: the file is damaged", name, path);
  const Range range{whole_number((*field)[0]), whole_number((*field)[1])};
  check(range.begin >= 0 && range.begin <= range.end && range.end <= size,
        "tensor {} of '{}' claims the data bytes {}, the file has {}: it is cut short or damaged, "
        "copy or download it again",
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
  check(error == std::errc() && next == end && epsilon > 0 && epsilon < 1,
        "the metadata {} of '{}' is '{}': expected a number between 0 and 1; the file is damaged",
        key, path, text);
}

}  // namespace

TensorSource read_safetensors(MappedFile file) {
  TensorSource source("safetensors", std::move(file));
  const std::span<const std::byte> bytes = source.file().bytes();
  const std::string path = source.file().path().string();
  check(bytes.size() >= 8,
        "'{}' has {} bytes: expected a safetensors file of at least 8; copy it again", path,
        bytes.size());
  const uint64_t claimed = load_at<uint64_t>(bytes, 0);
  const int64_t available = static_cast<int64_t>(bytes.size()) - 8;
  check(claimed <= static_cast<uint64_t>(std::min(available, kLongestHeader)),
        "'{}' claims a header of {} bytes, expected at most {}: it is cut short or damaged, copy "
        "or download it again",
        path, claimed, std::min(available, kLongestHeader));
  const int64_t header_bytes = static_cast<int64_t>(claimed);
  const json header = parse_json_text(
      {reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(header_bytes)},
      kDeepest, fmt::format("the header of '{}'", path));
  check(header.is_object(), "the header of '{}' is no JSON object: the file is damaged", path);

  const std::byte* data = bytes.data() + 8 + header_bytes;
  const int64_t data_bytes = available - header_bytes;
  struct Placed {
    Range range;
    std::string name;
    DType dtype;
    Shape shape;
  };
  std::vector<Placed> placed;
  for (const auto& [name, entry] : header.items()) {
    check(entry.is_object(), "the entry {} of '{}' is no JSON object: the file is damaged", name,
          path);
    if (name == kMetadata) {
      for (const auto& [key, value] : entry.items()) {
        check(value.is_string(), "the metadata {} of '{}' is no text: the file is damaged", key,
              path);
        source.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    const auto type_field = entry.find("dtype"), shape_field = entry.find("shape");
    check(type_field != entry.end() && type_field->is_string() && shape_field != entry.end() &&
              shape_field->is_array() && shape_field->size() <= kMostSizes,
          "tensor {} of '{}' has no dtype or no list of at most {} sizes as its shape: the file is "
          "damaged",
          name, path, kMostSizes);
    const std::string& type_name = type_field->get_ref<const std::string&>();
    const TypeName* type = find_type(type_name);
    check(type != nullptr,
          "tensor {} of '{}' has type {}: expected F32, F16 or BF16; convert it first", name, path,
          type_name);
    std::vector<int64_t> sizes;
    for (const json& size : *shape_field) sizes.push_back(whole_number(size));
    const Range range = parse_range(entry, name, data_bytes, path);
    const std::optional<int64_t> count = count_of(sizes);
    const int64_t length = range.end - range.begin;
    check(count && length % size_of(type->dtype) == 0 && *count == length / size_of(type->dtype),
          "tensor {} of '{}' has shape {} of type {} and {} bytes of data, which do not agree: the "
          "file is damaged",
          name, path, shape_field->dump(), type_name, length);
    const std::optional<Shape> shape = shape_of(sizes);
    check(shape.has_value(),
          "tensor {} of '{}' has shape {}: expected at most {} sizes other than 1", name, path,
          shape_field->dump(), Shape::kMaxRank);
    placed.push_back({range, name, type->dtype, *shape});
  }

  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.range.begin, a.range.end) < std::pair(b.range.begin, b.range.end);
  });
  int64_t used = 0;
  for (Placed& item : placed) {
    check(item.range.begin >= used,
          "tensor {} of '{}' overlaps the one before it: the file is damaged", item.name, path);
    used = item.range.end;
    source.add(std::move(item.name), item.dtype, item.shape, data + item.range.begin);
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
  std::vector<const StoredTensor*> order;
  for (const int64_t element : {4, 2}) {
    for (const StoredTensor& tensor : tensors) {
      if (size_of(tensor.dtype) == element) order.push_back(&tensor);
    }
  }
  check(order.size() == tensors.size(),
        "cannot write '{}': only f32, f16 and bf16 tensors can be stored", path.string());

  ordered_json header = ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const StoredTensor* tensor : order) {
    check(!tensor->name.empty() && tensor->name != kMetadata && names.insert(tensor->name).second,
          "cannot write '{}': the name '{}' is empty, reserved or occurs twice; rename the tensor",
          path.string(), tensor->name);
    ordered_json sizes = ordered_json::array();
    for (int axis = 0; axis < tensor->shape.rank(); ++axis) sizes.push_back(tensor->shape[axis]);
    const auto type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeName& t) { return t.dtype == tensor->dtype; });
    const int64_t end = offset + tensor->bytes();
    header[tensor->name] = {
        {"dtype", type->name}, {"shape", std::move(sizes)}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
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
    write_numbers(file, reader.read(*tensor), tensor->bytes(), progress);
  }
  file.commit();
}

}  // namespace rookery
