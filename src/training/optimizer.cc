#include "training/optimizer.h"

#include "ops/global_norm/global_norm.h"

namespace rookery {
namespace {

// Each tensor begins at a multiple of 256 bytes, which the fastest products want.
int64_t room(const Parameter& parameter) { return (parameter.room() + 63) / 64 * 64; }

}  // namespace

Optimizer::Optimizer(const Model& model, const OptimizerOptions& options)
    : options_(options),
      memory_(gradient_bytes(model) + moment_bytes(model), memory_of(model.device())) {
  for (const Parameter& parameter : model.parameters()) {
    if (!parameter.trainable) continue;
    check(parameter.value.dtype == DType::kF32) ||
        fail("training needs float32 masters, '{}' is {}", parameter.spec.name,
             name_of(parameter.value.dtype));
    entries_.push_back({.parameter = &parameter});
  }
  auto* next = static_cast<float*>(memory_.data());
  for (TensorView Entry::*view : {&Entry::gradient, &Entry::m, &Entry::v}) {
    for (Entry& entry : entries_) {
      entry.*view = {next, DType::kF32, entry.parameter->value.shape};
      next += room(*entry.parameter);
    }
  }
}

int64_t Optimizer::gradient_bytes(const Model& model) {
  int64_t count = 0;
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.trainable) count += room(parameter);
  }
  return count * 4;
}

void Optimizer::attach(Tape& tape, bool accumulate) const {
  for (const Entry& entry : entries_) {
    tape.keep_gradient(entry.parameter->value, entry.gradient, accumulate);
  }
}

AdamWStep Optimizer::numbers(double learning_rate, int64_t step) const {
  return {.learning_rate = learning_rate,
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .epsilon = options_.epsilon,
          .clip = options_.clip,
          .step = step};
}

TensorView Optimizer::step(Context& ctx, Mirrored<AdamWStep> numbers) const {
  std::vector<TensorView> gradients;
  for (const Entry& entry : entries_) gradients.push_back(entry.gradient);
  const TensorView norm = global_norm(ctx, gradients);
  AdamWForward update{.tensors = {}, .step = numbers, .norm = norm};
  for (const Entry& entry : entries_) {
    const OptimizerGroup& group = entry.parameter->spec.group;
    update.tensors.push_back(
        {.parameter = entry.parameter->value,
         .gradient = entry.gradient,
         .m = entry.m,
         .v = entry.v,
         .low = entry.parameter->low,
         .rate_multiplier = group.rate_multiplier,
         .weight_decay = group.weight_decay ? static_cast<float>(options_.weight_decay) : 0.0f});
  }
  adamw(ctx, update);
  return norm;
}

}  // namespace rookery
