#include "training/checkpoint.h"

#include <algorithm>
#include <set>

#include "io/hash.h"
#include "formats/safetensors.h"
#include "models/load.h"

namespace rookery {
namespace {

constexpr int64_t kFormat = 2;
constexpr std::string_view kPrefix = "checkpoint-", kSuffix = ".safetensors";
constexpr std::string_view kFirstMoment = "optimizer.m.", kSecondMoment = "optimizer.v.";

StoredTensor stored(const Parameter& parameter) {
  const NamedTensor tensor = stored_tensor(parameter);
  return {tensor.name, tensor.view.dtype, tensor.view.shape, tensor.view.data, tensor.make};
}

StoredTensor stored(std::string name, const TensorView& moment) {
  StoredTensor tensor{std::move(name), moment.dtype, moment.shape, moment.data};
  if (cuda::is_device_memory(moment.data)) {
    tensor.data = nullptr;
    tensor.make = [moment](void* to) { copy_bytes(to, moment.data, moment.bytes()); };
  }
  return tensor;
}

std::vector<std::string> names_of_frozen(const Model& model) {
  std::vector<std::string> names;
  for (const Parameter& parameter : model.parameters()) {
    if (!parameter.trainable) names.push_back(parameter.spec.name);
  }
  return names;
}

nlohmann::json describe(const Model& model, const RunState& run) {
  return {{"format", kFormat},
          {"generation", model.config().generation},
          {"frozen", names_of_frozen(model)},
          {"tokenizer", run.tokenizer},
          {"step", run.step},
          {"tokens_seen", run.tokens_seen},
          {"options", to_json(run.options)},
          {"configuration_hash", configuration_hash(model, run.options)},
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
  write_epsilons(model.config().epsilons, metadata);
  if (!run.tokenizer_definition.empty()) metadata["tokenizer"] = run.tokenizer_definition;
  return metadata;
}

void copy_tensor(const TensorSource& source, const std::string& name, const TensorView& to) {
  const StoredTensor* from = source.find(name);
  check(from != nullptr, "it lacks '{}': is it a checkpoint of training, and complete?", name);
  check(from->dtype == DType::kF32 && from->shape.count() == to.count(),
        "'{}' is {} {}, expected f32 {}", name, name_of(from->dtype), from->shape.to_string(),
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
          {"order", name_of(o.order)},
          {"magic_prime", o.magic_prime},
          {"dropout", o.dropout},
          {"l2wrap", o.l2wrap},
          {"seed", o.seed},
          {"validation_fraction", o.validation_fraction},
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

uint64_t configuration_hash(const Model& model, const TrainOptions& options) {
  nlohmann::json all = {{"options", to_json(options)}, {"frozen", names_of_frozen(model)}};
  model.config().visit([&](const char* name, const auto& member) { all[name] = member; });
  return hash_bytes(all.dump());
}

std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step) {
  return folder / fmt::format("{}{:08}{}", kPrefix, step, kSuffix);
}

int64_t step_of_checkpoint(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return -1;
  const std::string number =
      name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  const bool digits = number.find_first_not_of("0123456789") == std::string::npos;
  return digits && !number.empty() && number.size() <= 18 ? std::stoll(number) : -1;
}

int64_t step_of_model(const std::filesystem::path& path) {
  const TensorSource source = open_checkpoint(path);
  const auto metadata = source.metadata.find("rookery");
  if (metadata == source.metadata.end()) return 0;
  const nlohmann::json json = nlohmann::json::parse(metadata->second, nullptr, false);
  return json.is_object() && json.contains("step") && json["step"].is_number_integer()
             ? json["step"].get<int64_t>()
             : 0;
}

std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder) {
  std::vector<std::pair<int64_t, std::filesystem::path>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const int64_t step = step_of_checkpoint(entry.path());
    if (step >= 0) found.emplace_back(step, entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::filesystem::path save_checkpoint(const std::filesystem::path& folder, const Trainer& trainer,
                                      const RunState& run) {
  std::vector<StoredTensor> tensors;
  for (const Parameter& parameter : trainer.model().parameters()) {
    tensors.push_back(stored(parameter));
  }
  const auto entries = trainer.optimizer().entries();
  for (const Optimizer::Entry& entry : entries) {
    tensors.push_back(stored(std::string(kFirstMoment) + entry.parameter->spec.name, entry.m));
  }
  for (const Optimizer::Entry& entry : entries) {
    tensors.push_back(stored(std::string(kSecondMoment) + entry.parameter->spec.name, entry.v));
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
    tensors.push_back(stored(parameter));
  }
  write_safetensors(path, tensors, metadata_of(model, run));
}

Resumed load_checkpoint(const std::filesystem::path& path, ThreadPool& pool, Device device) {
  Resumed resumed;
  try {
    const TensorSource source = open_checkpoint(path);
    const auto metadata = source.metadata.find("rookery");
    check(metadata != source.metadata.end(), "it holds no state of training");
    const nlohmann::json json = nlohmann::json::parse(metadata->second);
    check(json.at("format") == kFormat,
          "it has format {} of checkpoints, this program reads format {}: resume with the program "
          "that wrote it",
          json.at("format").dump(), kFormat);
    RunState& run = resumed.run;
    run.options = train_options_from_json(json.at("options"));
    json.at("step").get_to(run.step);
    json.at("tokens_seen").get_to(run.tokens_seen);
    json.at("tokenizer").get_to(run.tokenizer);
    json.at("data").at("files").get_to(run.data_files);
    json.at("data").at("hash").get_to(run.data_hash);
    json.at("data").at("validation_files").get_to(run.validation_files);
    const auto definition = source.metadata.find("tokenizer");
    run.tokenizer_definition =
        definition != source.metadata.end() ? definition->second : std::string();
    json.at("checkpoint_every").get_to(run.checkpoint_every);
    json.at("keep").get_to(run.keep);
    json.at("validate_every").get_to(run.validate_every);
    json.at("validation_loss").get_to(run.validation_loss);
    check(run.step >= 0, "its step is {}", run.step);
    Model model = model_from_tensors(model_tensors(source), MatrixType::kF32, source.epsilons);
    const auto frozen = json.at("frozen").get<std::set<std::string>>();
    model.set_trainable([&](const ParameterSpec& spec) { return !frozen.contains(spec.name); });
    check(json.at("configuration_hash").get<uint64_t>() == configuration_hash(model, run.options),
          "its weights do not belong to its training options");
    resumed.trainer = std::make_unique<Trainer>(std::move(model), run.options, pool, device);
    for (const Optimizer::Entry& entry : resumed.trainer->optimizer().entries()) {
      const std::string& name = entry.parameter->spec.name;
      copy_tensor(source, std::string(kFirstMoment) + name, entry.m);
      copy_tensor(source, std::string(kSecondMoment) + name, entry.v);
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

std::vector<NamedTensor> model_tensors(const TensorSource& source) {
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : source.tensors) {
    if (tensor.name.starts_with("optimizer.")) continue;
    tensors.push_back(
        {tensor.name, {const_cast<void*>(tensor.data), tensor.dtype, tensor.shape}, tensor.make});
  }
  return tensors;
}

}  // namespace rookery
