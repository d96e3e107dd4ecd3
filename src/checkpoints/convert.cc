#include "checkpoints/convert.h"

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "checkpoints/find.h"
#include "checkpoints/load.h"
#include "formats/huggingface_writer.h"
#include "formats/pth_writer.h"
#include "formats/safetensors.h"
#include "formats/tensor_writer.h"
#include "io/file.h"
#include "models/detect.h"
#include "models/load.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<ModelFormat, std::string_view> kFormats[] = {
    {ModelFormat::kSafetensors, "safetensors"},
    {ModelFormat::kPth, "pth"},
    {ModelFormat::kHuggingface, "hf"}};

// The model's tensors as they will be stored, but for their type.
struct Content {
  std::string generation;
  std::vector<StoredTensor> tensors;
  int64_t left_out = 0;  // tensors of the optimizer
};

Content content_of(const TensorSource& source) {
  Content content;
  const std::vector<NamedTensor> named = model_tensors(source);
  std::unordered_map<std::string_view, const StoredTensor*> stored;
  for (const StoredTensor& tensor : source.tensors) stored[tensor.name] = &tensor;
  content.left_out = static_cast<int64_t>(source.tensors.size() - named.size());
  std::vector<TensorInfo> infos;
  for (const NamedTensor& tensor : named) infos.push_back({tensor.name, tensor.view.shape});
  content.generation = detect_generation(infos);
  if (!has_generation(content.generation)) {
    // No table of its parameters: names and shapes stay as they are.
    for (const NamedTensor& tensor : named) content.tensors.push_back(*stored.at(tensor.name));
    return content;
  }
  const Model plan = plan_from_tensors(named);
  for (const Parameter& parameter : plan.parameters()) {
    content.tensors.push_back(*stored.at(parameter.spec.name));
    content.tensors.back().shape = parameter.spec.shape;
  }
  return content;
}

void require_new_output(const fs::path& input, const fs::path& output,
                        const ConversionOptions& options, const TensorSource& source) {
  std::error_code error;
  bool same = fs::equivalent(input, output, error);
  for (const MappedFile& file : source.files()) {
    same = same || fs::equivalent(file.path(), output, error);
  }
  check(!same) || fail("'{}' is the model that is read: choose another name", output.string());
  if (options.format == ModelFormat::kHuggingface) return require_new_folder(output);
  require_new_file(output, options.replace);
}

void check_format_holds(const ConversionOptions& options, const std::string& generation,
                        const TensorSource& source) {
  const TensorSource usual;
  check(options.format != ModelFormat::kHuggingface || generation == "4") ||
      fail(
          "the model is RWKV-{}: Hugging Face folders are written of RWKV-4; write a .pth or "
          ".safetensors file",
          generation);
  if (options.format != ModelFormat::kPth) return;
  check(source.norm_epsilon == usual.norm_epsilon) ||
      fail(
          "the model's layer norms add {}, which a .pth cannot say: write a .safetensors file or a "
          "Hugging Face folder",
          source.norm_epsilon);
  check(source.group_norm_epsilon == usual.group_norm_epsilon) ||
      fail(
          "the model's group norms add {}, which a .pth cannot say, and other programs would add "
          "{}: write a .safetensors file",
          source.group_norm_epsilon, usual.group_norm_epsilon);
}

// The tokenizer's file beside a format that cannot hold it; written, but not in its place yet.
std::unique_ptr<AtomicFile> tokenizer_beside(const fs::path& path, const std::string& definition,
                                             bool replace) {
  std::error_code error;
  if (fs::exists(path, error)) {
    std::string there = read_text_file(path);
    while (there.ends_with('\n') && !definition.ends_with('\n')) there.pop_back();
    if (there == definition) return nullptr;
    check(replace) || fail(
                          "the model's tokenizer would go to '{}', where another one lies: choose "
                          "another folder, or replace it with --force",
                          path.string());
  }
  auto file = std::make_unique<AtomicFile>(path);
  file->write(definition.data(), static_cast<int64_t>(definition.size()));
  return file;
}

// Tokens of a window of the training run, for config.json.
int64_t context_of(const std::map<std::string, std::string>& metadata) {
  constexpr int64_t kUsual = 1024;
  const auto found = metadata.find("rookery");
  if (found == metadata.end()) return kUsual;
  const auto about = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  const auto pointer = nlohmann::json::json_pointer("/options/context");
  if (!about.is_object() || !about.contains(pointer)) return kUsual;
  const auto& context = about[pointer];
  return context.is_number_integer() && context > 0 ? context.get<int64_t>() : kUsual;
}

std::string type_of(std::span<const StoredTensor> tensors) {
  const std::string_view first = tensors[0].stored_type();
  const bool one = std::all_of(tensors.begin(), tensors.end(), [&](const StoredTensor& tensor) {
    return tensor.stored_type() == first;
  });
  return one ? std::string(first) : "mixed";
}

// As they will be stored. `tensors` must outlive the result.
std::vector<StoredTensor> in_types(std::span<const StoredTensor> tensors,
                                   const ConversionOptions& options) {
  std::vector<StoredTensor> result;
  bool has_blocks = false;
  for (const StoredTensor& tensor : tensors) {
    const std::optional<StoredTensor> blocks = options.blocks ? in_blocks(tensor) : std::nullopt;
    has_blocks = has_blocks || blocks;
    if (blocks) {
      result.push_back(*blocks);
    } else if (options.dtype) {
      result.push_back(in_type(tensor, *options.dtype));
    } else if (options.format == ModelFormat::kSafetensors) {
      result.push_back(tensor);
    } else {  // the others have no place for blocks
      result.push_back(in_type(tensor, tensor.dtype));
    }
  }
  check(has_blocks || !options.blocks) || fail(
                                              "no matrix of this model has rows of a multiple of "
                                              "{} numbers, as q8_0 wants: choose another --dtype",
                                              kBlock);
  return result;
}

// Writes a .pth, and beside it the tokenizer, which the file has no place for.
void write_pth_and_tokenizer(const fs::path& output, std::span<const StoredTensor> tensors,
                             std::map<std::string, std::string> metadata, bool replace,
                             const WriteProgress& progress, Conversion& result) {
  std::unique_ptr<AtomicFile> tokenizer;
  const auto definition = metadata.find("tokenizer");
  if (definition != metadata.end()) {
    if (const char* name = tokenizer_file_name(definition->second)) {
      result.tokenizer = output.parent_path() / name;
      tokenizer = tokenizer_beside(result.tokenizer, definition->second, replace);
      metadata.erase(definition);
    }
  }
  write_pth(output, tensors, progress);
  if (tokenizer != nullptr) tokenizer->commit();
  for (const auto& [key, value] : metadata) result.lost_metadata.push_back(key);
}

}  // namespace

std::string_view name_of(ModelFormat format) {
  const auto* found = std::find_if(std::begin(kFormats), std::end(kFormats),
                                   [&](const auto& known) { return known.first == format; });
  return found->second;
}

ModelFormat parse_model_format(std::string_view name) {
  for (const auto& [format, known] : kFormats) {
    if (known == name) return format;
  }
  fail("unknown model format '{}': expected safetensors, pth or hf", name);
}

ModelFormat format_of_file(const fs::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".pth") return ModelFormat::kPth;
  if (ending == ".safetensors" || ending == ".st") return ModelFormat::kSafetensors;
  check(ending.empty()) ||
      fail(
          "'{}' ends in {}, which names no format that is written: expected .safetensors, .pth or "
          "a folder's name, or say it: --to safetensors, --to pth or --to hf",
          path.string(), ending);
  return ModelFormat::kHuggingface;
}

void validate(const ConversionOptions& options) {
  check(options.format == ModelFormat::kSafetensors || !options.blocks) ||
      fail("q8_0 can be stored in safetensors files only: call the output NAME.safetensors");
}

Conversion convert_model(const fs::path& input, const fs::path& output,
                         const ConversionOptions& options) {
  validate(options);
  const TensorSource source = open_checkpoint(find_model_file(input.string()));
  const Content content = content_of(source);
  require_new_output(input, output, options, source);
  check_format_holds(options, content.generation, source);
  const std::vector<StoredTensor> tensors = in_types(content.tensors, options);
  std::map<std::string, std::string> metadata = source.metadata;
  for (const char* of_the_file : {"weight_type", "format"}) metadata.erase(of_the_file);
  write_epsilons(source, metadata);

  Conversion result;
  result.input_format = source.format;
  result.generation = content.generation;
  result.dtype = type_of(tensors);
  result.tensors = static_cast<int64_t>(tensors.size());
  for (const StoredTensor& tensor : tensors) result.parameters += tensor.shape.count();
  result.bytes = bytes_of(tensors);
  result.optimizer_tensors = content.left_out;

  int64_t done = 0, since_release = 0;
  const WriteProgress progress = [&](int64_t bytes) {
    done += bytes;
    since_release += bytes;
    constexpr int64_t kReleaseEvery = int64_t{64} << 20;
    if (since_release >= kReleaseEvery) {
      for (const MappedFile& file : source.files()) file.release();
      since_release = 0;
    }
    if (options.on_progress) options.on_progress(done, result.bytes);
  };
  switch (options.format) {
    case ModelFormat::kHuggingface:
      write_huggingface(output, tensors, metadata,
                        {.context_length = context_of(metadata),
                         .norm_epsilon = source.norm_epsilon,
                         .shard_bytes = options.shard_bytes},
                        progress);
      break;
    case ModelFormat::kSafetensors:
      write_safetensors(output, tensors, metadata, progress);
      break;
    case ModelFormat::kPth:
      write_pth_and_tokenizer(output, tensors, metadata, options.replace, progress, result);
      break;
  }
  return result;
}

}  // namespace rookery
