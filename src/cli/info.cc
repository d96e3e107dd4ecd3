// `rookery info`: what is in a checkpoint, or would be in a model of these sizes, and what a token
// costs.

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "checkpoints/load.h"
#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "inspect/model_report.h"
#include "reporting/numbers.h"

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

Json tensor_list(const Model& model, const TensorSource* source) {
  Json list = Json::array();
  for (const Parameter& parameter : model.parameters()) {
    const StoredTensor* stored = source == nullptr ? nullptr : source->find(parameter.spec.name);
    const Shape& shape = stored == nullptr ? parameter.spec.shape : stored->shape;
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

Json report_json(const ModelReport& report) {
  const ModelConfig& config = report.config;
  Json parts = Json::object(), groups = Json::array(), bytes = Json::object();
  for (const auto& [part, count] : report.parameters_by_part) parts[part] = count;
  for (const ModelReport::Group& group : report.optimizer_groups) {
    groups.push_back({{"rate_multiplier", group.rate_multiplier},
                      {"weight_decay", group.weight_decay},
                      {"parameters", group.parameters}});
  }
  for (const auto& [type, size] : report.bytes) bytes[std::string(name_of(type))] = size;
  return {{"generation", config.generation},
          {"layers", config.layers},
          {"width", config.width},
          {"attention_width", config.attention_width},
          {"ffn_width", config.ffn_width},
          {"vocabulary", config.vocabulary},
          {"parameters", report.parameters},
          {"parameters_by_part", parts},
          {"optimizer_groups", groups},
          {"bytes", bytes},
          {"state_bytes", report.state_bytes},
          {"flops_per_token", report.flops_per_token},
          {"flops_per_token_training", report.flops_per_token_training}};
}

// Exact, and as the paper prints it.
std::string exact_and_short(int64_t number) {
  return fmt::format("{} ({:.3e})", format_grouped(number), static_cast<double>(number));
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
  line("layers", format_grouped(number("layers")));
  line("width", format_grouped(number("width")));
  line("attention width", format_grouped(number("attention_width")));
  line("ffn width", format_grouped(number("ffn_width")));
  line("vocabulary", format_grouped(number("vocabulary")));
  line("parameters", exact_and_short(number("parameters")));
  for (const auto& [part, count] : info["parameters_by_part"].items()) {
    line("  " + part, format_grouped(count.get<int64_t>()));
  }
  for (const Json& group : info["optimizer_groups"]) {
    line(fmt::format("  rate x{}{}", group["rate_multiplier"].get<float>(),
                     group["weight_decay"].get<bool>() ? ", decays" : ""),
         format_grouped(group["parameters"].get<int64_t>()));
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
    const ModelReport report =
        report_of(Model::planned(make_config("4", paper.layers, paper.width, kPaperVocabulary)));
    rows.push_back({{"name", paper.name},
                    {"layers", paper.layers},
                    {"width", paper.width},
                    {"parameters", report.parameters},
                    {"flops_per_token", report.flops_per_token},
                    {"flops_per_token_training", report.flops_per_token_training}});
    table +=
        fmt::format("{:<6}{:>7}{:>7}  {:<28}{:<28}{}\n", paper.name, paper.layers, paper.width,
                    exact_and_short(report.parameters), exact_and_short(report.flops_per_token),
                    exact_and_short(report.flops_per_token_training));
  }
  write_output(json ? rows.dump(2) + "\n" : table);
  return 0;
}

int info(const InfoOptions& options) {
  if (options.paper_table) return print_paper_table(options.json);
  Json result;
  if (!options.shape.empty()) {
    const Model model = Model::planned(parse_shape(options.shape));
    result = report_json(report_of(model));
    if (options.tensors) result["tensors"] = tensor_list(model, nullptr);
  } else {
    if (options.model.empty()) {
      wrong_usage("expected a model file or folder, or sizes: --shape 4:12:768:50277");
    }
    const LoadedModel loaded = look_at_model(options.model);
    const TensorSource source = open_checkpoint(loaded.file);
    result = {{"file", loaded.file.string()},
              {"format", loaded.format},
              {"file_bytes", source.file_bytes()},
              {"stored", stored_bytes(*loaded.model, source)}};
    result.update(report_json(report_of(*loaded.model)));
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
