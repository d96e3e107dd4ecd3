#include "training/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "checking/checked_run.h"
#include "ops/cross_entropy/cross_entropy.h"

namespace rookery {
namespace {

TrainingBatch one_window_each(int64_t windows, int64_t context) {
  TrainingBatch batch{
      std::vector<int32_t>(windows * context), std::vector<int32_t>(windows * context), {0}};
  for (int64_t i = 1; i <= windows; ++i) batch.offsets.push_back(i * context);
  return batch;
}

void fill(const TrainingBatch& from, int64_t context, Batch& to) {
  to.window = context;
  to.tokens = from.tokens;
  to.targets = from.targets;
  to.offsets = from.offsets;
  to.slot_in.assign(from.offsets.size() - 1, -1);
  to.slot_out = to.slot_in;
}

// The recorded computation of one micro-batch.
CrossEntropyResult loss_of(Context& ctx, const Model& model, const PlacedBatch& batch,
                           float dropout, const CrossEntropyOptions& options) {
  const Tensor x = model.forward(ctx, batch, {.dropout = dropout});
  return cross_entropy(ctx, model.output_norm(ctx, x), model.head(), batch.targets(), options);
}

DType activation_type(const TrainOptions& options, Device device) {
  return device == Device::kCuda ? options.products : DType::kF32;
}

}  // namespace

void validate(const TrainOptions& o) {
  constexpr int64_t kMost = int64_t{1} << 31;
  check(o.context > 0 && o.batch > 0 && o.accumulation > 0) ||
      fail("context {}, batch {} and accumulation {} should all be at least 1", o.context, o.batch,
           o.accumulation);
  check(o.context < kMost && o.batch < kMost && o.context * o.batch < kMost) ||
      fail("a micro-batch of {} windows of {} tokens is too large: at most 2^31 tokens", o.batch,
           o.context);
  check(o.products == DType::kF32 || o.products == DType::kBF16) ||
      fail("training in {} is not possible: f32 or bf16", name_of(o.products));
  check(o.dropout >= 0 && o.dropout < 1) ||
      fail("dropout {} should be at least 0 and below 1", o.dropout);
  check(o.l2wrap >= 0 && std::isfinite(o.l2wrap)) ||
      fail("l2wrap {} should not be negative", o.l2wrap);
  check(o.validation_fraction >= 0 && o.validation_fraction < 1) ||
      fail("validation fraction {} should be at least 0 and below 1", o.validation_fraction);
  check(o.optimizer.beta1 >= 0 && o.optimizer.beta1 < 1 && o.optimizer.beta2 >= 0 &&
        o.optimizer.beta2 < 1) ||
      fail("betas {} and {} should be at least 0 and below 1", o.optimizer.beta1,
           o.optimizer.beta2);
  check(o.optimizer.epsilon > 0) ||
      fail("Adam's epsilon {} should be positive", o.optimizer.epsilon);
  check(o.optimizer.weight_decay >= 0 && o.optimizer.clip >= 0) ||
      fail("weight decay {} and clip {} should not be negative", o.optimizer.weight_decay,
           o.optimizer.clip);
  check(o.magic_prime >= 0) || fail("the magic prime {} should not be negative", o.magic_prime);
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

namespace {

// The largest number of windows of a micro-batch that needs no more than `bytes`; 0: not even one.
int64_t batch_that_fits(const ModelConfig& config, TrainOptions options, ThreadPool& pool,
                        Device device, int64_t bytes) {
  int64_t fits = 0, above = options.batch;
  while (above - fits > 1) {
    options.batch = fits + (above - fits) / 2;
    (plan_memory(config, options, pool, device).total() <= bytes ? fits : above) = options.batch;
  }
  return fits;
}

void check_memory(const MemoryPlan& plan, const ModelConfig& config, TrainOptions options,
                  ThreadPool& pool, Device device) {
  const int64_t free = cuda::Device::get(device.gpu).free_memory();
  if (plan.total() <= free) return;
  const auto gigabytes = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  std::string advice;
  if (const int64_t batch = batch_that_fits(config, options, pool, device, free)) {
    advice = fmt::format("a batch of {} fits (--batch {} --accumulate {})", batch, batch,
                         (options.batch * options.accumulation + batch - 1) / batch);
  }
  if (!options.gradient_checkpointing) {
    options.gradient_checkpointing = true;
    const bool whole = plan_memory(config, options, pool, device).total() <= free;
    const int64_t batch =
        whole ? options.batch : batch_that_fits(config, options, pool, device, free);
    if (batch > 0) {
      advice += fmt::format("{}with --gradient-checkpointing a batch of {} fits",
                            advice.empty() ? "" : "; ", batch);
    }
  }
  if (advice.empty()) advice = "not even a batch of 1 fits: use a smaller model or context";
  fail("training needs {:.2f} GiB of the GPU's memory, {:.2f} GiB are free: {}",
       gigabytes(plan.total()), gigabytes(free), advice);
}

}  // namespace

Trainer::Trainer(Model model, const TrainOptions& options, ThreadPool& pool, Device device)
    : options_(options), arena_(memory_of(device)), tape_(memory_of(device)) {
  validate(options);
  const MemoryPlan plan = plan_memory(model.config(), options, pool, device);
  ctx_.use(device, activation_type(options, device));
  if (device == Device::kCuda) {
    check_memory(plan, model.config(), options, pool, device);
    model = model.on_gpu(DType::kF32, device);
  }
  model_ = std::make_unique<Model>(std::move(model));
  model_->prepare_training(options.products == DType::kBF16);
  optimizer_ = std::make_unique<Optimizer>(*model_, options.optimizer);
  arena_.reserve(plan.activations + plan.scratch);
  tape_.reserve(plan.activation_gradients);
  numbers_.reserve(device, sizeof(Numbers));
  ctx_.pool = &pool;
  ctx_.arena = &arena_;
  ctx_.seed = options.seed;
  ctx_.gradient_checkpointing = options.gradient_checkpointing;
  ctx_.random_base = numbers_.mirrored<uint64_t>(offsetof(Numbers, random_base));
}

void Trainer::compute_gradients(bool accumulate) {
  arena_.reset();
  tape_.clear();
  ctx_.tape = &tape_;
  ctx_.random_stream = 0;
  optimizer_->attach(tape_, accumulate);
  const auto gradient = numbers_.mirrored<float>(offsetof(Numbers, objective_gradient));
  const float* upstream = ctx_.device == Device::kCuda ? gradient.device : gradient.host;
  loss_sum_ = loss_of(ctx_, *model_, placed_, static_cast<float>(options_.dropout),
                      {.l2wrap = options_.l2wrap,
                       .objective_gradient = {const_cast<float*>(upstream), DType::kF32, {1}}})
                  .loss_sum;
  if (on_backward) on_backward(tape_);
  tape_.run_backward();
  ctx_.tape = nullptr;
}

void Trainer::update() {
  norm_ = optimizer_->step(ctx_, numbers_.mirrored<AdamWStep>(offsetof(Numbers, adamw)));
}

template <class Work>
void Trainer::run(cuda::Captured& captured, Work work) {
  // Who wants to see each backward sees each.
  if (on_backward) return work();
  captured.run(ctx_, work);
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
  const auto count = static_cast<int64_t>(micro_batches.size());
  const int64_t bytes = (count + 1) * static_cast<int64_t>(sizeof(double));
  if (results_.bytes() < bytes) {
    results_ = Memory(bytes, host_memory_of(ctx_.device));
  }
  Numbers& numbers = *numbers_.at<Numbers>(0);
  numbers.adamw = optimizer_->numbers(result.learning_rate, steps_done_ + 1);
  numbers.objective_gradient = static_cast<float>(1.0 / static_cast<double>(targets));
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) ctx_.wait();  // a GPU reads the numbers of the micro-batch before
    // Each micro-batch of each step has random numbers of its own, and a replay has the same. The
    // high bit keeps them apart from the loader's.
    numbers.random_base = uint64_t{1} << 62 | static_cast<uint64_t>(steps_done_ * count + i) << 16;
    fill(micro_batches[i], options_.context, batch_);
    if (placed_.stage(batch_, model_->config().vocabulary, ctx_)) {
      for (int g : {0, 1}) captured_[g].reset();
    }
    placed_.send(ctx_);
    numbers_.send(ctx_, sizeof(Numbers));
    run(captured_[i > 0 ? 1 : 0], [&] { compute_gradients(i > 0); });
    ctx_.copy(this->result<double>(i), loss_sum_.data, sizeof(double));
  }
  run(captured_[2], [&] { update(); });
  ctx_.copy(this->result<double>(count), norm_.data, sizeof(double));
  ctx_.wait();
  for (int64_t i = 0; i < count; ++i) {
    result.loss += *this->result<double>(i) / static_cast<double>(targets);
  }
  result.gradient_norm = *this->result<double>(count);
  check(std::isfinite(result.loss)) ||
      fail("the loss is {} at step {}: lower the learning rate", result.loss, steps_done_ + 1);
  check(std::isfinite(result.gradient_norm)) ||
      fail(
          "the gradient is not finite at step {} (norm {}): lower the learning rate or clip more; "
          "the last checkpoint is whole",
          steps_done_ + 1, result.gradient_norm);
  ++steps_done_;
  return result;
}

StepResult Trainer::step(const Loader& loader) {
  return step(batches_of_step(loader, options_, steps_done_));
}

double Trainer::evaluate(std::span<const TrainingBatch> batches) {
  double sum = 0, targets = 0;
  for (const TrainingBatch& batch : batches) {
    fill(batch, options_.context, batch_);
    evaluated_.stage(batch_, model_->config().vocabulary, ctx_);
    evaluated_.send(ctx_);
    arena_.reset();
    const TensorView loss = loss_of(ctx_, *model_, evaluated_, 0, {}).loss_sum;
    ctx_.wait();
    sum += element(loss, 0);
    targets += static_cast<double>(std::count_if(batch.targets.begin(), batch.targets.end(),
                                                 [](int32_t t) { return t >= 0; }));
  }
  return targets > 0 ? sum / targets : 0;
}

MemoryPlan plan_memory(const ModelConfig& config, const TrainOptions& options, ThreadPool& pool,
                       Device device) {
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

  Arena arena(MemoryKind::kPlan);
  Tape tape(MemoryKind::kPlan);
  Context ctx;
  ctx.device = Device::kMeta;
  ctx.planned = device;
  ctx.dtype = activation_type(options, device);
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
  Batch batch;
  fill(one_window_each(options.batch, options.context), options.context, batch);
  PlacedBatch placed;
  placed.stage(batch, config.vocabulary, ctx);
  loss_of(ctx, model, placed, static_cast<float>(options.dropout), {.l2wrap = options.l2wrap});
  tape.run_backward();
  plan.activations = arena.peak();
  plan.activation_gradients = tape.peak_bytes();
  // Sums over rows that many blocks share, and the product library's own.
  if (device == Device::kCuda) {
    plan.scratch = (int64_t{128} << 20) + 64 * options.batch * options.context;
  }
  return plan;
}

}  // namespace rookery
