#include "training/optimizer.h"

#include <cmath>

#include "ops/adamw/adamw.h"
#include "ops/global_norm/global_norm.h"

namespace rookery {

Optimizer::Optimizer(const Model& model, const OptimizerOptions& options)
    : model_(model), options_(options), memory_(3 * 4 * model.parameter_count()) {
  auto* next = static_cast<float*>(memory_.data());
  for (std::vector<TensorView>* views : {&gradients_, &m_, &v_}) {
    for (const Parameter& parameter : model.parameters()) {
      check(parameter.value.dtype == DType::kF32, "training needs float32 masters, '{}' is {}",
            parameter.spec.name, name_of(parameter.value.dtype));
      views->push_back({next, DType::kF32, parameter.value.shape});
      next += parameter.value.count();
    }
  }
}

void Optimizer::attach(Tape& tape, bool accumulate) const {
  for (size_t i = 0; i < gradients_.size(); ++i) {
    tape.keep_gradient(model_.parameters()[i].value, gradients_[i], accumulate);
  }
}

double Optimizer::step(Context& ctx, double learning_rate, int64_t step) {
  const double norm = global_norm(ctx, gradients_);
  check(std::isfinite(norm),
        "the gradient is not finite at step {} (norm {}): lower the learning rate or clip more; "
        "the last "
        "checkpoint is whole",
        step, norm);
  const AdamWStep now{
      .learning_rate = learning_rate,
      .beta1 = options_.beta1,
      .beta2 = options_.beta2,
      .epsilon = options_.epsilon,
      .gradient_scale = options_.clip > 0 ? std::min(1.0, options_.clip / (norm + 1e-6)) : 1,
      .step = step};
  for (size_t i = 0; i < gradients_.size(); ++i) {
    const Parameter& parameter = model_.parameters()[i];
    adamw(ctx, {.parameter = parameter.value,
                .gradient = gradients_[i],
                .m = m_[i],
                .v = v_[i],
                .low = parameter.low,
                .step = &now,
                .rate_multiplier = parameter.spec.group.rate_multiplier,
                .weight_decay = parameter.spec.group.weight_decay
                                    ? static_cast<float>(options_.weight_decay)
                                    : 0.0f});
  }
  return norm;
}

}  // namespace rookery
