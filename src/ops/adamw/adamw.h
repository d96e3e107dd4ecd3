// AdamW (Loshchilov and Hutter 2019), in place, of all tensors at once, with g the clipped gradient
// and t the number of the step:
//   g = gradient * min(1, clip / (norm + 1e-6))
//   m = beta1 m + (1 - beta1) g             mhat = m / (1 - beta1^t)
//   v = beta2 v + (1 - beta2) g^2           vhat = v / (1 - beta2^t)
//   p = p - rate * (mhat / (sqrt(vhat) + epsilon) + weight_decay * p)
// The rate is learning_rate * rate_multiplier; norm is that of all gradients together. When the
// norm is not finite nothing changes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/context.h"

namespace rookery {

// What changes from step to step. Pointed to, so that a captured GPU graph can repeat.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.99;
  double epsilon =
      1e-18;         // a normal float, so that a gradient that was always 0 gives 0 / epsilon = 0
  double clip = 0;   // of the norm; 0: no clipping
  int64_t step = 1;  // the first step is 1
};

struct AdamWTensor {
  TensorView parameter;  // any shape, F32, updated
  TensorView gradient;   // as parameter
  TensorView m, v;       // as parameter, updated; zero before the first step
  TensorView low;  // as parameter, BF16, written: the parameter rounded to nearest even; or empty
  float rate_multiplier = 1;
  float weight_decay = 0;
};

struct AdamWForward {
  std::vector<AdamWTensor> tensors;
  Mirrored<AdamWStep> step;
  TensorView norm;  // [1] F64

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.input("norm", norm);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto name = [i](const char* what) { return fmt::format("{} {}", what, i); };
      AdamWTensor& t = tensors[i];
      visitor.in_place(name("parameter").c_str(), t.parameter);
      visitor.input(name("gradient").c_str(), t.gradient);
      visitor.in_place(name("m").c_str(), t.m);
      visitor.in_place(name("v").c_str(), t.v);
      visitor.output(name("low").c_str(), t.low);
    }
    visitor.mirrored("step", step, 1);
  }
  double terms() const { return 4; }
  // The weight decay is taken off before the step is.
  double units(std::string_view name) const { return name.starts_with("parameter") ? 2 : 1; }
  // What is computed is the change, of the size of the rate; the parameter only rounds.
  double magnitude(std::string_view name) const {
    if (!name.starts_with("parameter") && !name.starts_with("low")) return 0;
    double multiplier = 0;
    for (const AdamWTensor& t : tensors) {
      multiplier = std::max(multiplier, static_cast<double>(t.rate_multiplier));
    }
    return step->learning_rate * multiplier;
  }
};

// What gradients of this norm are multiplied by.
inline double clip_scale(double clip, double norm) {
  return clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
}

namespace cpu {
void adamw_forward(const AdamWForward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void adamw_forward(const AdamWForward& g, Context& ctx);
}  // namespace cuda

// Throws when the sizes differ.
void adamw(Context& ctx, const AdamWForward& args);

}  // namespace rookery
