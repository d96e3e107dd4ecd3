// The training loop's parts: options, one step, validation, and the memory a run will need.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/cuda/captured.h"
#include "data/loader.h"
#include "models/model.h"
#include "training/optimizer.h"
#include "training/schedule.h"

namespace rookery {

// What decides a run's numbers. Saved in every checkpoint; a resumed run takes them from there.
struct TrainOptions {
  int64_t context = 256;         // tokens of a window
  int64_t batch = 8;             // windows of a micro-batch
  int64_t accumulation = 1;      // micro-batches of a step
  DType products = DType::kF32;  // or BF16: bfloat16 products with float32 masters
  bool gradient_checkpointing = false;
  bool reset_documents = false;
  WindowOrder order = WindowOrder::kShuffled;
  int64_t magic_prime = 0;  // of that order; 0: the largest that serves
  double dropout = 0;
  double l2wrap = 1e-4;
  uint64_t seed = 1;
  double validation_fraction = 0.01;  // of the text, from its end
  ScheduleOptions schedule;
  OptimizerOptions optimizer;

  int64_t tokens_per_step() const { return context * batch * accumulation; }
};

// Throws Error naming the first option that does not fit.
void validate(const TrainOptions& options);

// The micro-batches of step number `step` (0 ..). Every step takes the next windows of the loader's
// order, so this is the one place that decides which windows a step sees.
std::vector<TrainingBatch> batches_of_step(const Loader& loader, const TrainOptions& options,
                                           int64_t step);

struct StepResult {
  double loss = 0;           // mean, nats per target token
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t targets = 0;  // tokens the loss is the mean of; 0: all were masked
};

class Trainer {
 public:
  // Takes a float32 model in the processor's memory, and trains it on `device`. `pool` must outlive
  // this. Throws Error when the device's memory is too small, and says what would fit.
  Trainer(Model model, const TrainOptions& options, ThreadPool& pool, Device device = Device::kCpu);

  // One step on this batch (its micro-batches in order): the loss is the mean over all targets that
  // are not masked, whatever their share of each micro-batch. If every one is masked, the step
  // counts, but weights and moments stay: Adam would move them on without a gradient. Throws Error
  // when the numbers are not finite.
  StepResult step(std::span<const TrainingBatch> micro_batches);
  // The next step's batches from the loader, and the step.
  StepResult step(const Loader& loader);
  // Mean loss over these batches, nats per target, without dropout; 0 if all are masked.
  double evaluate(std::span<const TrainingBatch> batches);

  int64_t steps_done() const { return steps_done_; }
  void set_steps_done(int64_t steps) { steps_done_ = steps; }
  // A run that is made longer goes on with another schedule.
  void set_schedule(const ScheduleOptions& schedule) { options_.schedule = schedule; }
  const Model& model() const { return *model_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  const TrainOptions& options() const { return options_; }
  // For a checker or a profile.
  Context& context() { return ctx_; }
  // Called with the recorded operators before each backward.
  std::function<void(const Tape&)> on_backward;

 private:
  // What a step's kernels read besides the batch.
  struct Numbers {
    AdamWStep adamw;
    uint64_t random_base = 0;
    float objective_gradient = 0;
  };
  // What a step leaves: its losses' sum in each micro-batch, and then the norm.
  template <class T>
  T* result(int64_t i) {
    return static_cast<T*>(results_.data()) + i;
  }
  void compute_gradients(bool accumulate);
  void update();
  template <class Work>
  void run(cuda::Captured& captured, Work work);

  TrainOptions options_;
  std::unique_ptr<Model> model_;  // behind a pointer: the tape and the optimizer point into it
  std::unique_ptr<Optimizer> optimizer_;
  Arena arena_;
  Tape tape_;
  Batch batch_;
  PlacedBatch placed_, evaluated_;
  Mirror numbers_;
  Memory results_;
  TensorView loss_sum_, norm_;
  // Of a step's first micro-batch and the others, and of the update.
  cuda::Captured captured_[3];
  int64_t steps_done_ = 0;
  Context ctx_;  // behind what its work uses
};

// Bytes by purpose, found by walking through one step without computing it.
struct MemoryPlan {
  int64_t weights = 0;
  int64_t low_weights = 0;  // bfloat16 copies
  int64_t gradients = 0, moments = 0;
  int64_t activations = 0;  // with scratch
  int64_t activation_gradients = 0;
  int64_t scratch = 0;  // of a GPU's kernels and products
  int64_t total() const {
    return weights + low_weights + gradients + moments + activations + activation_gradients +
           scratch;
  }
};
MemoryPlan plan_memory(const ModelConfig& config, const TrainOptions& options, ThreadPool& pool,
                       Device device = Device::kCpu);

}  // namespace rookery
