// `rookery convert`: the same model in another file format or number type. Tensors go through one
// at a time; what is written appears only when it is complete.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <unordered_map>

#include "reporting/progress.h"
#include "cli/verbs.h"
#include "io/file.h"
#include "formats/huggingface_writer.h"
#include "formats/pth_writer.h"
#include "formats/safetensors.h"
#include "models/detect.h"
#include "models/load.h"
#include "training/checkpoint.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormats[] = {"safetensors", "pth", "hf"};

struct ConvertOptions {
  std::string input, output, to, shard_size = "5GB";
  std::optional<DType> dtype;  // none: as stored
  bool blocks = false;         // of Q8_0, for matrices; all else as stored
  bool force = false, json = false;
};

// Bytes from "5GB", "500MiB" or "1000000".
int64_t parse_size(const std::string& text) {
  struct Unit {
    std::string_view name;
    int64_t bytes;
  };
  constexpr Unit kUnits[] = {{"", 1},
                             {"KB", 1000},
                             {"MB", 1'000'000},
                             {"GB", 1'000'000'000},
                             {"KiB", int64_t{1} << 10},
                             {"MiB", int64_t{1} << 20},
                             {"GiB", int64_t{1} << 30}};
  int64_t number = 0, bytes = 0;
  const char* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, number);
  const std::string_view name(next, static_cast<size_t>(end - next));
  const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                 [&](const Unit& known) { return known.name == name; });
  check(error == std::errc() && number > 0 && unit != std::end(kUnits) &&
            !__builtin_mul_overflow(number, unit->bytes, &bytes),
        "'{}' is no size: expected a whole number of bytes, KB, MB, GB, KiB, MiB or GiB, such as "
        "5GB",
        text);
  return bytes;
}

// --to, or what OUT's ending says.
std::string format_of(const ConvertOptions& options) {
  if (!options.to.empty()) return options.to;
  const fs::path output = options.output;
  const std::string ending = output.extension().string();
  if (ending == ".pth") return "pth";
  if (ending == ".safetensors" || ending == ".st") return "safetensors";
  if (ending.empty()) return "hf";
  wrong_usage(
      "'{}' ends in {}, which names no format that is written: expected .safetensors, .pth or a "
      "folder's name, or say it: --to safetensors, --to pth or --to hf",
      options.output, ending);
}

// Ends the writing from within.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted: nothing was written") {}
};

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
    content.tensors.back().shape = parameter.spec.stored_shape();
  }
  return content;
}

void require_new_output(const ConvertOptions& options, const std::string& format,
                        const TensorSource& source) {
  std::error_code error;
  const bool same_folder = fs::equivalent(options.input, options.output, error);
  bool same = same_folder;
  for (const MappedFile& file : source.files()) {
    same = same || fs::equivalent(file.path(), options.output, error);
  }
  check(!same, "'{}' is the model that is read: choose another name", options.output);
  if (format == "hf") return require_new_folder(options.output);
  check(options.force || !fs::exists(options.output, error),
        "'{}' exists already: choose another name, or replace it with --force", options.output);
}

// The tokenizer's file beside a format that cannot hold it; written, but not in its place yet.
std::unique_ptr<AtomicFile> tokenizer_beside(const ConvertOptions& options, const fs::path& path,
                                             const std::string& definition) {
  std::error_code error;
  if (fs::exists(path, error)) {
    std::string there = read_text_file(path);
    while (there.ends_with('\n') && !definition.ends_with('\n')) there.pop_back();
    if (there == definition) return nullptr;
    check(options.force,
          "the model's tokenizer would go to '{}', where another one lies: choose another folder, "
          "or replace it with --force",
          path.string());
  }
  auto file = std::make_unique<AtomicFile>(path);
  file->write(definition.data(), static_cast<int64_t>(definition.size()));
  return file;
}

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
                                   const ConvertOptions& options, const std::string& format) {
  std::vector<StoredTensor> result;
  bool has_blocks = false;
  for (const StoredTensor& tensor : tensors) {
    const std::optional<StoredTensor> blocks = options.blocks ? in_blocks(tensor) : std::nullopt;
    has_blocks = has_blocks || blocks;
    if (blocks) {
      result.push_back(*blocks);
    } else if (options.dtype) {
      result.push_back(in_type(tensor, *options.dtype));
    } else if (format == "safetensors") {
      result.push_back(tensor);
    } else {  // the others have no place for blocks
      result.push_back(in_type(tensor, tensor.dtype));
    }
  }
  check(has_blocks || !options.blocks,
        "no matrix of this model has rows of a multiple of {} numbers, as q8_0 wants: choose "
        "another --dtype",
        kBlock);
  return result;
}

int convert_model(const ConvertOptions& options) {
  const std::string format = format_of(options);
  if (options.blocks && format != "safetensors") {
    wrong_usage("q8_0 can be stored in safetensors files only: call OUT NAME.safetensors");
  }
  const TensorSource source = open_checkpoint(find_model_file(options.input));
  const Content content = content_of(source);
  require_new_output(options, format, source);
  check(format != "hf" || content.generation == "4",
        "the model is RWKV-{}: Hugging Face folders are written of RWKV-4; write a .pth or "
        ".safetensors file",
        content.generation);
  check(format != "pth" || source.epsilons.layer_norm == TensorSource().epsilons.layer_norm,
        "the model's layer norms add {}, which a .pth cannot say: write a .safetensors file or a "
        "Hugging Face folder",
        source.epsilons.layer_norm);
  check(format != "pth" || source.epsilons.group_norm == TensorSource().epsilons.group_norm,
        "the model's group norms add {}, which a .pth cannot say, and other programs would add {}: "
        "write a .safetensors file",
        source.epsilons.group_norm, TensorSource().epsilons.group_norm);

  const std::vector<StoredTensor> tensors = in_types(content.tensors, options, format);
  std::map<std::string, std::string> metadata = source.metadata;
  for (const char* of_the_file : {"weight_type", "format"}) metadata.erase(of_the_file);
  write_epsilons(source.epsilons, metadata);

  catch_signals();
  const int64_t total = bytes_of(tensors);
  const auto began = std::chrono::steady_clock::now();
  constexpr int64_t kMebibyte = int64_t{1} << 20;
  const auto mebibytes = [](int64_t bytes) { return (bytes + kMebibyte - 1) / kMebibyte; };
  Progress progress(stderr, {.title = "convert", .total = mebibytes(total)});
  if (content.left_out > 0) {
    progress.message(fmt::format("left out {} tensors of the optimizer", content.left_out));
  }
  int64_t done = 0, since_release = 0;
  const WriteProgress on_progress = [&](int64_t bytes) {
    if (stop_requested()) throw Interrupted();
    done += bytes;
    since_release += bytes;
    constexpr int64_t kReleaseEvery = 64 * kMebibyte;
    if (since_release >= kReleaseEvery) {
      for (const MappedFile& file : source.files()) file.release();
      since_release = 0;
    }
    progress.update(mebibytes(done), "MiB");
  };
  if (format == "hf") {
    write_huggingface(options.output, tensors, metadata,
                      {.context_length = context_of(metadata),
                       .norm_epsilon = source.epsilons.layer_norm,
                       .shard_bytes = parse_size(options.shard_size)},
                      on_progress);
  } else if (format == "safetensors") {
    write_safetensors(options.output, tensors, metadata, on_progress);
  } else {
    std::unique_ptr<AtomicFile> tokenizer;
    fs::path beside;
    const auto definition = metadata.find("tokenizer");
    if (definition != metadata.end()) {
      if (const char* name = tokenizer_file_name(definition->second)) {
        beside = fs::path(options.output).parent_path() / name;
        tokenizer = tokenizer_beside(options, beside, definition->second);
        metadata.erase(definition);
      }
    }
    write_pth(options.output, tensors, on_progress);
    if (tokenizer != nullptr) tokenizer->commit();
    if (!beside.empty()) {
      progress.message(fmt::format("the tokenizer lies beside it: {}", beside.string()));
    }
    std::string lost;
    for (const auto& [key, value] : metadata) lost += (lost.empty() ? "" : ", ") + key;
    if (!lost.empty()) progress.message(fmt::format("a .pth has no place for metadata: {}", lost));
  }
  progress.finish();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();

  int64_t parameters = 0;
  for (const StoredTensor& tensor : tensors) parameters += tensor.shape.count();
  const std::string dtype = type_of(tensors);
  if (options.json) {
    const Json summary = {{"input", options.input},
                          {"input_format", source.format},
                          {"output", options.output},
                          {"format", format},
                          {"generation", content.generation},
                          {"dtype", dtype},
                          {"tensors", tensors.size()},
                          {"parameters", parameters},
                          {"bytes", total},
                          {"optimizer_tensors_left_out", content.left_out},
                          {"seconds", seconds}};
    write_output(summary.dump(2) + "\n");
  } else {
    fmt::print(stderr, "wrote {}: RWKV-{} as {}, {} tensors, {} parameters, {} {}\n",
               options.output, content.generation, format, tensors.size(),
               format_count(static_cast<double>(parameters)), dtype,
               format_bytes(static_cast<double>(total)));
  }
  return 0;
}

}  // namespace

std::function<int()> add_convert(CLI::App& app) {
  CLI::App* verb = add_verb(app, "convert", "Write a model in another format or number type",
                            "  rookery convert RWKV-4-169M.pth rwkv-169m.safetensors\n"
                            "  rookery convert runs/book book-hf/ --dtype bf16\n"
                            "  rookery convert runs/book book.safetensors --dtype q8_0");
  auto options = std::make_shared<ConvertOptions>();
  verb->add_option("IN", options->input,
                   "A .pth, .safetensors or rwkv.cpp .bin file, a Hugging Face folder, or the "
                   "folder of a training run")
      ->required()
      ->type_name("PATH");
  verb->add_option("OUT", options->output,
                   "NAME.safetensors, NAME.pth, or a new folder for Hugging Face")
      ->required()
      ->type_name("PATH");
  verb->add_option("--to", options->to,
                   "The format, whatever OUT is called: safetensors, pth or hf")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kFormats), std::end(kFormats)))
                  .description(""))
      ->type_name("FORMAT");
  verb->add_option_function<std::string>(
          "--dtype",
          [options](const std::string& name) {
            options->blocks = name == "q8_0";
            if (name != "as-stored" && !options->blocks) options->dtype = parse_dtype(name);
          },
          "Of all numbers: as-stored, f32, f16 or bf16; or q8_0: matrices in blocks of 8-bit "
          "numbers, the rest as stored (safetensors only)")
      ->check(CLI::IsMember({"as-stored", "f32", "f16", "bf16", "q8_0"}).description(""))
      ->type_name("TYPE")
      ->default_str("as-stored");
  verb->add_option("--shard-size", options->shard_size,
                   "Hugging Face: weights above this are split over several files")
      ->check(parsed_by(parse_size))
      ->type_name("SIZE")
      ->capture_default_str();
  verb->add_flag("--force", options->force,
                 "Replace the file if it exists (a folder that is not empty never is)");
  verb->add_flag("--json", options->json, "Tell what was written as JSON");
  return [options] { return convert_model(*options); };
}

}  // namespace rookery::cli
