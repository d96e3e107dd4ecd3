// rookery check: runs a model forward and backward with every operator beside its definition.

#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/convert.h"
#include "core/device.h"
#include "core/random.h"
#include "formats/safetensors.h"
#include "training/trainer.h"

namespace rookery::cli {
namespace {

struct CheckFlags {
  std::string model, shape = "4:2:48:64", device = "check:cpu", dtype = "f32", out = ".";
  int64_t context = 40;
  bool tape = false, json = false;
  std::shared_ptr<int> threads;
};

// The inputs of the operator that differed, as float32, for whoever mends it.
std::string save_inputs(const CheckFlags& flags, const std::string& op,
                        const std::vector<NamedTensor>& inputs) {
  std::vector<Memory> memory;
  std::vector<StoredTensor> tensors;
  for (const NamedTensor& input : inputs) {
    memory.emplace_back(input.view.count() * 4);
    const TensorView copy{memory.back().data(), DType::kF32, input.view.shape};
    convert(input.view, copy);
    tensors.push_back({input.name, DType::kF32, copy.shape, copy.data});
  }
  const auto path = std::filesystem::path(flags.out) / ("difference-" + op + ".safetensors");
  write_safetensors(path, tensors, {{"operator", op}});
  return path.string();
}

int check_model(const CheckFlags& flags) {
  if (flags.device != "check:cpu" && flags.device != "check:cuda") {
    wrong_usage("--device {} is not possible: expected check:cpu or check:cuda", flags.device);
  }
  const Device device = resolve_device(flags.device.substr(std::string("check:").size()));
  ThreadPool pool(resolve_threads(*flags.threads));
  Model model = flags.model.empty()
                    ? Model::initialised(parse_shape(flags.shape), {.scheme = "random"}, pool)
                    : std::move(*load_model(flags.model, MatrixType::kF32).model);
  const ModelConfig config = model.config();
  TrainOptions options;
  options.context = flags.context;
  options.batch = 2;
  options.products = parse_dtype(flags.dtype);
  options.dropout = 0.1;
  options.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-4};
  Trainer trainer(std::move(model), options, pool, device);
  Checker checker;
  std::string saved;
  checker.on_difference = [&](const std::string& op, const std::vector<NamedTensor>& inputs) {
    saved = save_inputs(flags, op, inputs);
  };
  trainer.context().checker = &checker;
  TrainingBatch batch;
  Random random(11);
  for (int64_t i = 0; i < 2 * flags.context; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(random.below(config.vocabulary)));
    batch.targets.push_back(i % 9 == 8 ? -1
                                       : static_cast<int32_t>(random.below(config.vocabulary)));
  }
  // Three sequences, one of a single token.
  batch.offsets = {0, 1, flags.context, 2 * flags.context};
  if (flags.context == 1) batch.offsets = {0, 1, 2};
  std::vector<std::string> backward;
  trainer.on_backward = [&](const Tape& tape) { backward = tape.backward_order(); };
  try {
    trainer.step(std::span(&batch, 1));
    trainer.evaluate(std::span(&batch, 1));
  } catch (const Error& error) {
    if (saved.empty()) throw;
    fail("{}\nThe operator's inputs are in {}", error.what(), saved);
  }
  if (flags.json) {
    nlohmann::json json = {
        {"device", flags.device}, {"checked", checker.checked}, {"worst", checker.worst}};
    if (flags.tape) json["backward_order"] = backward;
    std::puts(json.dump().c_str());
    return 0;
  }
  if (flags.tape) {
    for (const std::string& op : backward) fmt::print("{}\n", op);
  }
  for (const auto& [op, worst] : checker.worst)
    fmt::print("{:28} {:6.2f} % of the tolerance\n", op, 100 * worst);
  fmt::print("{} calls agree with their definitions\n", checker.checked);
  return 0;
}

}  // namespace

std::function<int()> add_check(CLI::App& app) {
  CLI::App* verb = add_verb(app, "check",
                            "Run every operator of a training step beside its definition in double",
                            "  rookery check --device check:cpu\n  rookery check --device "
                            "check:cuda --dtype bf16\n  rookery check model.safetensors --tape");
  auto flags = std::make_shared<CheckFlags>();
  verb->add_option("MODEL", flags->model,
                   "Model file or folder (default: a random model of --shape)");
  verb->add_option("--shape", flags->shape,
                   "GENERATION:LAYERS:WIDTH:VOCABULARY; keep it small: definitions are slow")
      ->capture_default_str();
  verb->add_option("--device", flags->device, "check:cpu or check:cuda")->capture_default_str();
  verb->add_option("--dtype", flags->dtype, "Products: f32 or bf16; on a GPU activations, too")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  verb->add_option("--context", flags->context, "Tokens of each of two windows")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  verb->add_option("-o,--out", flags->out, "Folder for the inputs of an operator that differs")
      ->capture_default_str();
  verb->add_flag("--tape", flags->tape, "Print the operators in backward order");
  verb->add_flag("--json", flags->json, "Report as one JSON object");
  flags->threads = add_threads(*verb);
  return [flags] { return check_model(*flags); };
}

}  // namespace rookery::cli
