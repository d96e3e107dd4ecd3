// `rookery check`: runs a model forward and backward with every operator beside its definition.

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
#include "core/device.h"
#include "training/checked_step.h"

namespace rookery::cli {
namespace {

struct CheckFlags {
  std::string model, shape = "4:2:48:64", device = "check:cpu", dtype = "f32", out = ".";
  int64_t context = 40;
  bool tape = false, json = false;
  std::shared_ptr<int> threads;
};

int check_model(const CheckFlags& flags) {
  if (flags.device != "check:cpu" && flags.device != "check:cuda") {
    wrong_usage("--device {} is not possible: expected check:cpu or check:cuda", flags.device);
  }
  const Device device = resolve_device(flags.device.substr(std::string("check:").size()));
  ThreadPool pool(resolve_threads(*flags.threads));
  Model model = flags.model.empty()
                    ? Model::initialised(parse_shape(flags.shape), {.scheme = "random"}, pool)
                    : std::move(*load_model(flags.model, MatrixType::kF32).model);
  const CheckedStep step = check_training_step(std::move(model),
                                               {.context = flags.context,
                                                .products = parse_dtype(flags.dtype),
                                                .device = device,
                                                .folder = flags.out},
                                               pool);
  int64_t refused = 0;
  for (const auto& [op, entry] : step.operators) refused += entry.refused;
  if (flags.json) {
    nlohmann::json json = {
        {"device", flags.device}, {"checked", step.checked}, {"not_compared", refused}};
    for (const auto& [op, entry] : step.operators) {
      json["worst"][op] = entry.worst;
      json["tolerance"][op] = entry.looseness;
      if (entry.refused > 0) json["refused"][op] = entry.refused;
    }
    if (flags.tape) json["backward_order"] = step.backward_order;
    std::puts(json.dump().c_str());
    return 0;
  }
  if (flags.tape) {
    for (const std::string& op : step.backward_order) fmt::print("{}\n", op);
  }
  for (const auto& [op, entry] : step.operators) {
    fmt::print("{:28} {:6.2f} % of the tolerance, which is {:.1g} of the values{}\n", op,
               100 * entry.worst, entry.looseness,
               entry.refused > 0 ? fmt::format("; {} tensors not compared", entry.refused) : "");
  }
  if (refused > 0) {
    fmt::print(
        "{} tensors were not compared: rounding alone may change them by more than an eighth\n",
        refused);
  }
  fmt::print("{} calls agree with their definitions\n", step.checked);
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
