#include "training/checked_step.h"

#include <span>

#include "core/convert.h"
#include "core/random.h"
#include "formats/safetensors.h"
#include "training/trainer.h"

namespace rookery {
namespace {

// As float32, for whoever mends the operator.
std::filesystem::path save_inputs(const std::filesystem::path& folder, const std::string& op,
                                  const std::vector<NamedTensor>& inputs) {
  std::vector<Memory> memory;
  std::vector<StoredTensor> tensors;
  for (const NamedTensor& input : inputs) {
    memory.emplace_back(input.view.count() * 4);
    const TensorView copy{memory.back().data(), DType::kF32, input.view.shape};
    convert(input.view, copy);
    tensors.push_back({input.name, DType::kF32, copy.shape, copy.data});
  }
  const std::filesystem::path path = folder / ("difference-" + op + ".safetensors");
  write_safetensors(path, tensors, {{"operator", op}});
  return path;
}

// Two windows in three sequences, one of them of a single token; one target of nine is masked.
TrainingBatch random_batch(int64_t context, int64_t vocabulary) {
  TrainingBatch batch;
  Random random(11);
  for (int64_t i = 0; i < 2 * context; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(random.below(vocabulary)));
    batch.targets.push_back(i % 9 == 8 ? -1 : static_cast<int32_t>(random.below(vocabulary)));
  }
  batch.offsets = {0, 1, context, 2 * context};
  if (context == 1) batch.offsets = {0, 1, 2};
  return batch;
}

}  // namespace

CheckedStep check_training_step(Model model, const CheckedStepOptions& options, ThreadPool& pool) {
  TrainOptions training;
  training.context = options.context;
  training.batch = 2;
  training.products = options.products;
  training.dropout = 0.1;
  training.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-4};
  Trainer trainer(std::move(model), training, pool, options.device);
  Checker checker;
  std::filesystem::path saved;
  checker.on_difference = [&](const std::string& op, const std::vector<NamedTensor>& inputs) {
    saved = save_inputs(options.folder, op, inputs);
  };
  trainer.context().checker = &checker;
  CheckedStep result;
  trainer.on_backward = [&](const Tape& tape) { result.backward_order = tape.backward_order(); };
  const TrainingBatch batch = random_batch(options.context, trainer.model().config().vocabulary);
  try {
    trainer.step(std::span(&batch, 1));
    trainer.evaluate(std::span(&batch, 1));
  } catch (const Error& error) {
    if (saved.empty()) throw;
    fail("{}\nThe operator's inputs are in {}", error.what(), saved.string());
  }
  result.checked = checker.checked;
  result.operators = std::move(checker.operators);
  return result;
}

}  // namespace rookery
