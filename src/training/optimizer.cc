#include "training/optimizer.h"

#include "ops/global_norm/global_norm.h"

namespace rookery {

namespace {

// Each tensor begins at a multiple of 256 bytes, which the fastest products want.
int64_t room(const Parameter& parameter) { return (parameter.room() + 63) / 64 * 64; }

}  // namespace

Optimizer::Optimizer(const Model& model, const OptimizerOptions& options)
    : model_(model),
      options_(options),
      memory_(gradient_bytes(model) + moment_bytes(model), memory_of(model.device())) {
  auto* next = static_cast<float*>(memory_.data());
  for (std::vector<TensorView>* views : {&gradients_, &m_, &v_}) {
    for (const Parameter& parameter : model.parameters()) {
      check(parameter.value.dtype == DType::kF32) ||
          fail("training needs float32 masters, '{}' is {}", parameter.spec.name,
               name_of(parameter.value.dtype));
      views->push_back({next, DType::kF32, parameter.value.shape});
      next += room(parameter);
    }
  }
}

int64_t Optimizer::gradient_bytes(const Model& model) {
  int64_t count = 0;
  for (const Parameter& parameter : model.parameters()) {
    count += room(parameter);
  }
  return count * 4;
}

void Optimizer::attach(Tape& tape, bool accumulate) const {
  for (size_t i = 0; i < gradients_.size(); ++i) {
    tape.keep_gradient(model_.parameters()[i].value, gradients_[i], accumulate);
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
  const TensorView norm = global_norm(ctx, gradients_);
  AdamWForward update{.tensors = {}, .step = numbers, .norm = norm};
  for (size_t i = 0; i < gradients_.size(); ++i) {
    const Parameter& parameter = model_.parameters()[i];
    update.tensors.push_back({.parameter = parameter.value,
                              .gradient = gradients_[i],
                              .m = m_[i],
                              .v = v_[i],
                              .low = parameter.low,
                              .rate_multiplier = parameter.spec.group.rate_multiplier,
                              .weight_decay = parameter.spec.group.weight_decay
                                                  ? static_cast<float>(options_.weight_decay)
                                                  : 0.0f});
  }
  adamw(ctx, update);
  return norm;
}

}  // namespace rookery
