#include "training/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "checkpoints/find.h"
#include "checkpoints/load.h"
#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "io/hash.h"
#include "models/load.h"

namespace rookery {
namespace {

constexpr int64_t kFormat = 2;
constexpr std::string_view kFirstMoment = "optimizer.m.", kSecondMoment = "optimizer.v.";

StoredTensor stored(std::string name, const TensorView& view) {
  StoredTensor tensor{std::move(name), view.dtype, view.shape, view.data};
  if (cuda::is_device_memory(view.data)) {
    tensor.data = nullptr;
    tensor.make = [view](void* to) { copy_bytes(to, view.data, view.bytes()); };
  }
  return tensor;
}

nlohmann::json describe(const Model& model, const RunState& run) {
  const ModelConfig& config = model.config();
  return {{"format", kFormat},
          {"generation", config.generation},
          {"tokenizer", run.tokenizer},
          {"step", run.step},
          {"tokens_seen", run.tokens_seen},
          {"options", to_json(run.options)},
          {"configuration_hash", configuration_hash(config, run.options)},
          // All random numbers of training follow from the seed and the step: this is their whole
          // state.
          {"random", {{"seed", run.options.seed}, {"step", run.step}}},
          {"data",
           {{"files", run.data_files},
            {"hash", run.data_hash},
            {"validation_files", run.validation_files},
            {"next_sample", run.step * run.options.batch * run.options.accumulation}}},
          {"checkpoint_every", run.checkpoint_every},
          {"keep", run.keep},
          {"validate_every", run.validate_every},
          {"validation_loss", run.validation_loss}};
}

std::map<std::string, std::string> metadata_of(const Model& model, const RunState& run) {
  std::map<std::string, std::string> metadata = {{"rookery", describe(model, run).dump()}};
  TensorSource norms;
  norms.norm_epsilon = model.config().norm_epsilon;
  write_epsilons(norms, metadata);
  if (!run.tokenizer_definition.empty()) metadata["tokenizer"] = run.tokenizer_definition;
  return metadata;
}

void copy_tensor(const TensorSource& source, const std::string& name, const TensorView& to) {
  const StoredTensor* from = source.find(name);
  check(from != nullptr) ||
      fail("it lacks '{}': is it a checkpoint of training, and complete?", name);
  check(from->dtype == DType::kF32 && from->shape.count() == to.count()) ||
      fail("'{}' is {} {}, expected f32 {}", name, name_of(from->dtype), from->shape.to_string(),
           to.shape.to_string());
  TensorReader reader;
  copy_bytes(to.data, reader.read(*from), to.bytes());
}

}  // namespace

nlohmann::json to_json(const TrainOptions& o) {
  return {{"context", o.context},
          {"batch", o.batch},
          {"accumulation", o.accumulation},
          {"products", name_of(o.products)},
          {"gradient_checkpointing", o.gradient_checkpointing},
          {"reset_documents", o.reset_documents},
          {"dropout", o.dropout},
          {"l2wrap", o.l2wrap},
          {"seed", o.seed},
          {"validation_fraction", o.validation_fraction},
          {"order", name_of(o.order)},
          {"magic_prime", o.magic_prime},
          {"schedule",
           {{"kind", name_of(o.schedule.kind)},
            {"rate", o.schedule.rate},
            {"final_rate", o.schedule.final_rate},
            {"warmup_steps", o.schedule.warmup_steps},
            {"total_steps", o.schedule.total_steps},
            {"constant_steps", o.schedule.constant_steps}}},
          {"optimizer",
           {{"beta1", o.optimizer.beta1},
            {"beta2", o.optimizer.beta2},
            {"epsilon", o.optimizer.epsilon},
            {"weight_decay", o.optimizer.weight_decay},
            {"clip", o.optimizer.clip}}}};
}

TrainOptions train_options_from_json(const nlohmann::json& json) {
  TrainOptions o;
  try {
    json.at("context").get_to(o.context);
    json.at("batch").get_to(o.batch);
    json.at("accumulation").get_to(o.accumulation);
    o.products = parse_dtype(json.at("products").get<std::string>());
    json.at("gradient_checkpointing").get_to(o.gradient_checkpointing);
    json.at("reset_documents").get_to(o.reset_documents);
    json.at("dropout").get_to(o.dropout);
    json.at("l2wrap").get_to(o.l2wrap);
    json.at("seed").get_to(o.seed);
    json.at("validation_fraction").get_to(o.validation_fraction);
    o.order = parse_window_order(json.at("order").get<std::string>());
    json.at("magic_prime").get_to(o.magic_prime);
    const auto& schedule = json.at("schedule");
    o.schedule.kind = parse_schedule_kind(schedule.at("kind").get<std::string>());
    schedule.at("rate").get_to(o.schedule.rate);
    schedule.at("final_rate").get_to(o.schedule.final_rate);
    schedule.at("warmup_steps").get_to(o.schedule.warmup_steps);
    schedule.at("total_steps").get_to(o.schedule.total_steps);
    schedule.at("constant_steps").get_to(o.schedule.constant_steps);
    const auto& optimizer = json.at("optimizer");
    optimizer.at("beta1").get_to(o.optimizer.beta1);
    optimizer.at("beta2").get_to(o.optimizer.beta2);
    optimizer.at("epsilon").get_to(o.optimizer.epsilon);
    optimizer.at("weight_decay").get_to(o.optimizer.weight_decay);
    optimizer.at("clip").get_to(o.optimizer.clip);
  } catch (const nlohmann::json::exception& error) {
    fail("its training options cannot be read ({}): was it written by a newer version?",
         error.what());
  }
  validate(o);
  return o;
}

uint64_t configuration_hash(const ModelConfig& config, const TrainOptions& options) {
  const nlohmann::json all = {{"generation", config.generation},
                              {"layers", config.layers},
                              {"width", config.width},
                              {"attention_width", config.attention_width},
                              {"ffn_width", config.ffn_width},
                              {"vocabulary", config.vocabulary},
                              {"norm_epsilon", config.norm_epsilon},
                              {"options", to_json(options)}};
  return hash_bytes(all.dump());
}

std::filesystem::path save_checkpoint(const std::filesystem::path& folder, const Trainer& trainer,
                                      const RunState& run) {
  std::vector<StoredTensor> tensors;
  const auto parameters = trainer.model().parameters();
  for (const Parameter& parameter : parameters)
    tensors.push_back(stored(parameter.spec.name, parameter.value));
  for (size_t i = 0; i < parameters.size(); ++i) {
    tensors.push_back(
        stored(std::string(kFirstMoment) + parameters[i].spec.name, trainer.optimizer().m(i)));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    tensors.push_back(
        stored(std::string(kSecondMoment) + parameters[i].spec.name, trainer.optimizer().v(i)));
  }
  const std::filesystem::path path = checkpoint_path(folder, run.step);
  write_safetensors(path, tensors, metadata_of(trainer.model(), run));
  if (run.keep > 0) {
    std::vector<std::filesystem::path> all = list_checkpoints(folder);
    while (static_cast<int64_t>(all.size()) > run.keep) {
      std::error_code ignored;  // a file that cannot be removed costs space, not the run
      if (all.front() != path) std::filesystem::remove(all.front(), ignored);
      all.erase(all.begin());
    }
  }
  return path;
}

void save_model(const std::filesystem::path& path, const Model& model, const RunState& run) {
  std::vector<StoredTensor> tensors;
  for (const Parameter& parameter : model.parameters()) {
    tensors.push_back(stored(parameter.spec.name, parameter.value));
  }
  write_safetensors(path, tensors, metadata_of(model, run));
}

Resumed load_checkpoint(const std::filesystem::path& path, ThreadPool& pool, Device device) {
  Resumed resumed;
  try {
    const TensorSource source = open_checkpoint(path);
    const auto metadata = source.metadata.find("rookery");
    check(metadata != source.metadata.end()) || fail("it holds no state of training");
    const nlohmann::json json = nlohmann::json::parse(metadata->second);
    const int64_t format = json.at("format").get<int64_t>();
    check(format == kFormat) ||
        fail(
            "it has version {} of the format of checkpoints, this program reads version {}: begin "
            "a new run with its weights (--model), or resume with the program that wrote it",
            format, kFormat);
    RunState& run = resumed.run;
    run.options = train_options_from_json(json.at("options"));
    json.at("step").get_to(run.step);
    json.at("tokens_seen").get_to(run.tokens_seen);
    json.at("tokenizer").get_to(run.tokenizer);
    json.at("data").at("files").get_to(run.data_files);
    json.at("data").at("hash").get_to(run.data_hash);
    json.at("data").at("validation_files").get_to(run.validation_files);
    const auto definition = source.metadata.find("tokenizer");
    run.tokenizer_definition = definition != source.metadata.end() ? definition->second : "";
    json.at("checkpoint_every").get_to(run.checkpoint_every);
    json.at("keep").get_to(run.keep);
    json.at("validate_every").get_to(run.validate_every);
    json.at("validation_loss").get_to(run.validation_loss);
    check(run.step >= 0) || fail("its step is {}", run.step);
    Model model = model_from_tensors(model_tensors(source), MatrixType::kF32, source.norm_epsilon);
    check(json.at("configuration_hash").get<uint64_t>() ==
          configuration_hash(model.config(), run.options)) ||
        fail("its weights do not belong to its training options");
    resumed.trainer = std::make_unique<Trainer>(std::move(model), run.options, pool, device);
    const auto parameters = resumed.trainer->model().parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      copy_tensor(source, std::string(kFirstMoment) + parameters[i].spec.name,
                  resumed.trainer->optimizer().m(i));
      copy_tensor(source, std::string(kSecondMoment) + parameters[i].spec.name,
                  resumed.trainer->optimizer().v(i));
    }
    resumed.trainer->set_steps_done(run.step);
  } catch (const nlohmann::json::exception& error) {
    fail("cannot resume from '{}': its state of training cannot be read ({})", path.string(),
         error.what());
  } catch (const Error& error) {
    fail("cannot resume from '{}': {}", path.string(), error.what());
  }
  return resumed;
}

}  // namespace rookery
