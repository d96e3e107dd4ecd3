// `rookery info`: what is in a checkpoint, or would be in a model of these sizes, and what a token
// costs. Counts and operations are those of the paper's Table 2 (arXiv 2305.13048).

#include "reporting/progress.h"
#include "cli/verbs.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InfoOptions {
  std::string model, shape;
  bool json = false, tensors = false, paper_table = false;
};

// Table 2 of the paper. The vocabulary is that of the Pile's tokenizer.
struct PaperModel {
  const char* name;
  int64_t layers, width;
};
constexpr int64_t kPaperVocabulary = 50277;
constexpr PaperModel kPaperModels[] = {{"169M", 12, 768}, {"430M", 24, 1024}, {"1.5B", 24, 2048},
                                       {"3B", 32, 2560},  {"7B", 32, 4096},   {"14B", 40, 5120}};

int64_t flops(const Model& model) { return static_cast<int64_t>(forward_flops_per_token(model)); }
// A backward pass is two more products for each one of the forward.
int64_t training_flops(const Model& model) { return 3 * flops(model); }

// As Model keeps them: matrices in `matrices`, vectors in float32.
int64_t bytes_with(const Model& model, DType matrices) {
  int64_t bytes = 0;
  for (const Parameter& parameter : model.parameters()) {
    const bool vector = parameter.spec.role == Role::kVector;
    bytes += parameter.value.count() * size_of(vector ? DType::kF32 : matrices);
  }
  return bytes;
}

Json parts(const Model& model) {
  Json counts = Json::object();
  for (const Parameter& parameter : model.parameters()) {
    Json& count = counts[std::string(parameter.spec.part)];
    count = (count.is_null() ? 0 : count.get<int64_t>()) + parameter.value.count();
  }
  return counts;
}

Json optimizer_groups(const Model& model) {
  std::map<std::pair<bool, float>, int64_t> counts;
  for (const Parameter& parameter : model.parameters()) {
    const OptimizerGroup& group = parameter.spec.group;
    counts[{group.weight_decay, group.rate_multiplier}] += parameter.value.count();
  }
  Json groups = Json::array();
  for (const auto& [group, count] : counts) {
    groups.push_back(
        {{"rate_multiplier", group.second}, {"weight_decay", group.first}, {"parameters", count}});
  }
  return groups;
}

Json tensor_list(const Model& model, const TensorSource* source) {
  Json list = Json::array();
  for (const Parameter& parameter : model.parameters()) {
    const StoredTensor* stored = source == nullptr ? nullptr : source->find(parameter.spec.name);
    const Shape shape = stored == nullptr ? parameter.spec.stored_shape() : stored->shape;
    Json sizes = Json::array();
    for (int axis = 0; axis < shape.rank(); ++axis) sizes.push_back(shape[axis]);
    const std::string_view type = stored == nullptr ? name_of(DType::kF32) : stored->stored_type();
    list.push_back({{"name", parameter.spec.name}, {"shape", sizes}, {"dtype", type}});
  }
  return list;
}

// What `train` or `init` wrote beside the weights; empty in a file of another program.
Json origin(const std::map<std::string, std::string>& metadata) {
  Json state = Json::object();
  const auto found = metadata.find("rookery");
  if (found == metadata.end()) return state;
  const auto all = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!all.is_object()) return state;
  for (const char* key : {"step", "tokens_seen", "validation_loss", "scheme", "seed"}) {
    if (const auto value = all.find(key); value != all.end()) state[key] = *value;
  }
  return state;
}

Json describe(const Model& model) {
  Json result = {{"generation", model.config().generation}};
  for (const auto& [name, size] : sizes_of(model.config())) result[name] = size;
  const Json rest = {{"parameters", model.parameter_count()},
                     {"parameters_by_part", parts(model)},
                     {"optimizer_groups", optimizer_groups(model)},
                     {"bytes",
                      {{"f32", bytes_with(model, DType::kF32)},
                       {"f16", bytes_with(model, DType::kF16)},
                       {"bf16", bytes_with(model, DType::kBF16)}}},
                     {"state_bytes", model.state_layout()->slot_size * size_of(DType::kF32)},
                     {"flops_per_token", flops(model)},
                     {"flops_per_token_training", training_flops(model)}};
  result.update(rest);
  return result;
}

// 169342464 -> "169,342,464"
std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(at, ",");
  return digits;
}

// Exact, and as the paper prints it.
std::string exact_and_short(int64_t number) {
  return fmt::format("{} ({:.3e})", grouped(number), static_cast<double>(number));
}

std::string as_table(const Json& info) {
  std::string table;
  const auto line = [&](std::string_view name, const std::string& value) {
    table += fmt::format("{:<22}{}\n", name, value);
  };
  const auto number = [&](const char* key) { return info[key].get<int64_t>(); };
  if (info.contains("file")) {
    line("file", info["file"].get<std::string>());
    line("format", fmt::format("{}, {}", info["format"].get<std::string>(),
                               format_bytes(info["file_bytes"].get<double>())));
    std::string stored;
    for (const auto& [dtype, bytes] : info["stored"].items()) {
      stored += fmt::format("{}{} {}", stored.empty() ? "" : ", ", dtype,
                            format_bytes(bytes.get<double>()));
    }
    line("weights stored as", stored);
  }
  line("generation", "RWKV-" + info["generation"].get<std::string>());
  line("layers", grouped(number("layers")));
  line("width", grouped(number("width")));
  line("attention width", grouped(number("attention_width")));
  line("ffn width", grouped(number("ffn_width")));
  line("vocabulary", grouped(number("vocabulary")));
  line("parameters", exact_and_short(number("parameters")));
  for (const auto& [part, count] : info["parameters_by_part"].items()) {
    line("  " + part, grouped(count.get<int64_t>()));
  }
  for (const Json& group : info["optimizer_groups"]) {
    line(fmt::format("  rate x{}{}", group["rate_multiplier"].get<float>(),
                     group["weight_decay"].get<bool>() ? ", decays" : ""),
         grouped(group["parameters"].get<int64_t>()));
  }
  std::string bytes;
  for (const auto& [dtype, size] : info["bytes"].items()) {
    bytes +=
        fmt::format("{}{} {}", bytes.empty() ? "" : ", ", dtype, format_bytes(size.get<double>()));
  }
  line("memory of weights", bytes);
  line("state of a sequence", format_bytes(info["state_bytes"].get<double>()));
  line("FLOP of a token", exact_and_short(number("flops_per_token")));
  line("  in training", exact_and_short(number("flops_per_token_training")));
  if (info.contains("tokenizer")) line("tokenizer", info["tokenizer"].get<std::string>());
  for (const char* made : {"training", "initialisation"}) {
    if (!info.contains(made)) continue;
    line(made, "");
    for (const auto& [key, value] : info[made].items()) {
      line("  " + key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  if (info.contains("tensors")) {
    table += "\n";
    for (const Json& tensor : info["tensors"]) {
      table += fmt::format("{:<5} {:<36} {}\n", tensor["dtype"].get<std::string>(),
                           tensor["name"].get<std::string>(), tensor["shape"].dump());
    }
  }
  return table;
}

int print_paper_table(bool json) {
  Json rows = Json::array();
  std::string table = fmt::format("{:<6}{:>7}{:>7}  {:<28}{:<28}{}\n", "model", "layers", "width",
                                  "parameters", "FLOP of a token", "in training");
  for (const PaperModel& paper : kPaperModels) {
    const Model model =
        Model::planned(make_config("4", paper.layers, paper.width, kPaperVocabulary));
    rows.push_back({{"name", paper.name},
                    {"layers", paper.layers},
                    {"width", paper.width},
                    {"parameters", model.parameter_count()},
                    {"flops_per_token", flops(model)},
                    {"flops_per_token_training", training_flops(model)}});
    table += fmt::format("{:<6}{:>7}{:>7}  {:<28}{:<28}{}\n", paper.name, paper.layers, paper.width,
                         exact_and_short(model.parameter_count()), exact_and_short(flops(model)),
                         exact_and_short(training_flops(model)));
  }
  write_output(json ? rows.dump(2) + "\n" : table);
  return 0;
}

int info(const InfoOptions& options) {
  if (options.paper_table) return print_paper_table(options.json);
  Json result;
  if (!options.shape.empty()) {
    const Model model = Model::planned(parse_shape(options.shape));
    result = describe(model);
    if (options.tensors) result["tensors"] = tensor_list(model, nullptr);
  } else {
    if (options.model.empty()) {
      wrong_usage("expected a model file or folder, or sizes: --shape 4:12:768:50277");
    }
    const LoadedModel loaded = look_at_model(options.model);
    const TensorSource source = open_checkpoint(loaded.file);
    std::map<std::string, int64_t> stored;
    for (const Parameter& parameter : loaded.model->parameters()) {
      const StoredTensor* tensor = source.find(parameter.spec.name);
      stored[std::string(tensor->stored_type())] += tensor->stored_bytes();
    }
    result = {{"file", loaded.file.string()},
              {"format", loaded.format},
              {"file_bytes", source.file_bytes()},
              {"stored", stored}};
    result.update(describe(*loaded.model));
    try {
      if (const auto tokenizer = find_tokenizer(loaded, "")) {
        result["tokenizer"] = tokenizer->name();
      }
    } catch (const Error& error) {  // the rest is worth knowing all the same
      result["tokenizer"] = fmt::format("unusable: {}", error.what());
    }
    const Json made = origin(loaded.metadata);
    if (!made.empty()) result[made.contains("step") ? "training" : "initialisation"] = made;
    if (options.tensors) result["tensors"] = tensor_list(*loaded.model, &source);
  }
  write_output(options.json ? result.dump(2) + "\n" : as_table(result));
  return 0;
}

}  // namespace

std::function<int()> add_info(CLI::App& app) {
  CLI::App* verb =
      add_verb(app, "info", "Describe a model: sizes, parameters, memory, operations per token",
               "  rookery info runs/book\n"
               "  rookery info --shape 4:12:768:50277 --json");
  auto options = std::make_shared<InfoOptions>();
  CLI::Option* model =
      verb->add_option("MODEL", options->model, "A model file, or the folder of a training run")
          ->type_name("PATH");
  CLI::Option* shape =
      verb->add_option("--shape", options->shape,
                       "No file: GENERATION:LAYERS:WIDTH:VOCABULARY, such as 4:12:768:50277")
          ->check(parsed_by(parse_shape))
          ->type_name("SIZES");
  CLI::Option* table = verb->add_flag("--paper-table", options->paper_table,
                                      "The six models of the paper's Table 2");
  CLI::Option* tensors =
      verb->add_flag("--tensors", options->tensors, "List every tensor: name, shape, type");
  shape->excludes(model);
  table->excludes(model, shape, tensors);
  verb->add_flag("--json", options->json, "Print JSON");
  return [options] { return info(*options); };
}

}  // namespace rookery::cli
