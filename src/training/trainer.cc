#include "training/trainer.h"

#include <cmath>

#include "ops/cross_entropy/cross_entropy.h"

namespace rookery {
namespace {

TrainingBatch one_window_each(int64_t windows, int64_t context) {
  TrainingBatch batch{
      std::vector<int32_t>(windows * context), std::vector<int32_t>(windows * context), {0}};
  for (int64_t i = 1; i <= windows; ++i) batch.offsets.push_back(i * context);
  return batch;
}

void fill(const TrainingBatch& from, Batch& to) {
  to.tokens = from.tokens;
  to.offsets = from.offsets;
  to.slot_in.assign(from.offsets.size() - 1, -1);
  to.slot_out = to.slot_in;
}

// The recorded computation of one micro-batch.
CrossEntropyResult loss_of(Context& ctx, const Model& model, const Batch& batch,
                           const int32_t* targets, float dropout,
                           const CrossEntropyOptions& options) {
  const Tensor x = model.forward(ctx, batch, {.dropout = dropout});
  return cross_entropy(ctx, model.output_norm(ctx, x), model.head(), targets, options);
}

}  // namespace

void validate(const TrainOptions& o) {
  constexpr int64_t kMost = int64_t{1} << 31;
  check(o.context > 0 && o.batch > 0 && o.accumulation > 0,
        "context {}, batch {} and accumulation {} should all be at least 1", o.context, o.batch,
        o.accumulation);
  check(o.context < kMost && o.batch < kMost && o.context * o.batch < kMost,
        "a micro-batch of {} windows of {} tokens is too large: at most 2^31 tokens", o.batch,
        o.context);
  check(o.products == DType::kF32 || o.products == DType::kBF16,
        "training in {} is not possible: f32 or bf16", name_of(o.products));
  check(o.dropout >= 0 && o.dropout < 1, "dropout {} should be at least 0 and below 1", o.dropout);
  check(o.l2wrap >= 0 && std::isfinite(o.l2wrap), "l2wrap {} should not be negative", o.l2wrap);
  check(o.validation_fraction >= 0 && o.validation_fraction < 1,
        "validation fraction {} should be at least 0 and below 1", o.validation_fraction);
  check(o.optimizer.beta1 >= 0 && o.optimizer.beta1 < 1 && o.optimizer.beta2 >= 0 &&
            o.optimizer.beta2 < 1,
        "betas {} and {} should be at least 0 and below 1", o.optimizer.beta1, o.optimizer.beta2);
  check(o.optimizer.epsilon > 0, "Adam's epsilon {} should be positive", o.optimizer.epsilon);
  check(o.optimizer.weight_decay >= 0 && o.optimizer.clip >= 0,
        "weight decay {} and clip {} should not be negative", o.optimizer.weight_decay,
        o.optimizer.clip);
  check(o.magic_prime >= 0, "the magic prime {} should not be negative", o.magic_prime);
  validate(o.schedule);
}

std::vector<TrainingBatch> batches_of_step(const Loader& loader, const TrainOptions& options,
                                           int64_t step) {
  std::vector<TrainingBatch> batches(options.accumulation);
  int64_t sample = step * options.accumulation * options.batch;
  for (TrainingBatch& batch : batches) {
    for (int64_t i = 0; i < options.batch; ++i) loader.append(sample++, batch);
  }
  return batches;
}

Trainer::Trainer(Model model, const TrainOptions& options, ThreadPool& pool) : options_(options) {
  validate(options);
  const MemoryPlan plan = plan_memory(model.config(), options, pool);
  model_ = std::make_unique<Model>(std::move(model));
  model_->prepare_training(options.products == DType::kBF16);
  optimizer_ = std::make_unique<Optimizer>(*model_, options.optimizer);
  arena_.reserve(plan.activations);
  tape_.reserve(plan.activation_gradients);
  ctx_.pool = &pool;
  ctx_.arena = &arena_;
  ctx_.seed = options.seed;
}

StepResult Trainer::step(std::span<const TrainingBatch> micro_batches) {
  StepResult result;
  int64_t& targets = result.targets;
  for (const TrainingBatch& batch : micro_batches) {
    targets +=
        std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t t) { return t >= 0; });
  }
  result.learning_rate = learning_rate(options_.schedule, steps_done_);
  if (targets == 0) {
    ++steps_done_;
    return result;
  }
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    // Each micro-batch of each step has random numbers of its own, and a replay has the same. The
    // high bit keeps them apart from the loader's.
    ctx_.random_stream =
        uint64_t{1} << 62 | (static_cast<uint64_t>(steps_done_) * micro_batches.size() + i) << 16;
    fill(micro_batches[i], batch_);
    arena_.reset();
    tape_.clear();
    ctx_.tape = &tape_;
    optimizer_->attach(tape_, i > 0);
    ctx_.gradient_checkpointing = options_.gradient_checkpointing;
    const CrossEntropyResult loss = loss_of(ctx_, *model_, batch_, micro_batches[i].targets.data(),
                                            static_cast<float>(options_.dropout),
                                            {1.0 / static_cast<double>(targets), options_.l2wrap});
    if (on_backward) on_backward(tape_);
    tape_.run_backward();
    for (int64_t t = 0; t < loss.losses.count(); ++t) {
      result.loss += loss.losses.as<float>()[t] / static_cast<double>(targets);
    }
  }
  ctx_.tape = nullptr;
  check(std::isfinite(result.loss), "the loss is {} at step {}: lower the learning rate",
        result.loss, steps_done_ + 1);
  result.gradient_norm = optimizer_->step(ctx_, result.learning_rate, steps_done_ + 1);
  ++steps_done_;
  return result;
}

StepResult Trainer::step(const Loader& loader) {
  return step(batches_of_step(loader, options_, steps_done_));
}

double Trainer::evaluate(std::span<const TrainingBatch> batches) {
  double sum = 0, targets = 0;
  ctx_.tape = nullptr;
  for (const TrainingBatch& batch : batches) {
    fill(batch, batch_);
    arena_.reset();
    const CrossEntropyResult loss = loss_of(ctx_, *model_, batch_, batch.targets.data(), 0, {});
    for (int64_t t = 0; t < loss.losses.count(); ++t) {
      sum += loss.losses.as<float>()[t];
      targets += batch.targets[t] >= 0 ? 1 : 0;
    }
  }
  return targets > 0 ? sum / targets : 0;
}

MemoryPlan plan_memory(const ModelConfig& config, const TrainOptions& options, ThreadPool& pool) {
  Model model = Model::planned(config);
  const bool low = options.products == DType::kBF16;
  model.prepare_training(low);
  MemoryPlan plan;
  plan.weights = model.bytes();
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.low) plan.low_weights += parameter.low.bytes();
  }
  plan.gradients = Optimizer::gradient_bytes(model);
  plan.moments = Optimizer::moment_bytes(model);

  Arena arena(/*planning=*/true);
  Tape tape(/*planning=*/true);
  Context ctx;
  ctx.device = Device::kMeta;
  ctx.pool = &pool;
  ctx.arena = &arena;
  ctx.tape = &tape;
  ctx.gradient_checkpointing = options.gradient_checkpointing;
  for (const Parameter& parameter : model.parameters()) {
    // Anywhere: the tape only has to know that this gradient has a place of its own.
    tape.keep_gradient(
        parameter.value,
        {reinterpret_cast<void*>(Arena::kAlignment), DType::kF32, parameter.value.shape}, false);
  }
  const TrainingBatch window = one_window_each(options.batch, options.context);
  Batch batch;
  fill(window, batch);
  loss_of(ctx, model, batch, window.targets.data(), static_cast<float>(options.dropout),
          {1, options.l2wrap});
  tape.run_backward();
  plan.activations = arena.peak();
  plan.activation_gradients = tape.peak_bytes();
  return plan;
}

}  // namespace rookery
