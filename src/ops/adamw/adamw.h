// AdamW (Loshchilov and Hutter 2019), in place, with g the scaled gradient and t the number of the
// step:
//   m = beta1 m + (1 - beta1) g             mhat = m / (1 - beta1^t)
//   v = beta2 v + (1 - beta2) g^2           vhat = v / (1 - beta2^t)
//   p = p - rate * (mhat / (sqrt(vhat) + epsilon) + weight_decay * p)
// The rate is learning_rate * rate_multiplier.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/context.h"

namespace rookery {

// What changes from step to step. Pointed to, so that a captured GPU graph can repeat.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.99;
  double epsilon =
      1e-18;  // a normal float, so that a gradient that was always 0 gives 0 / epsilon = 0
  double gradient_scale = 1;  // below 1 when the gradient is clipped
  int64_t step = 1;           // the first step is 1
};

struct AdamWForward {
  TensorView parameter;  // any shape, F32, updated
  TensorView gradient;   // as parameter
  TensorView m, v;       // as parameter, updated; zero before the first step
  TensorView low;  // as parameter, BF16, written: the parameter rounded to nearest even; or empty
  const AdamWStep* step = nullptr;
  float rate_multiplier = 1;
  float weight_decay = 0;

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.in_place("parameter", parameter);
    visitor.input("gradient", gradient);
    visitor.in_place("m", m);
    visitor.in_place("v", v);
    visitor.output("low", low);
  }
  double terms() const { return 4; }
  // The parameter's own rounding error is small against that of the change, of the size of the
  // rate: the second moment of a tiny gradient is a denormal number, which has few digits.
  double magnitude(std::string_view name) const {
    return name == "parameter" || name == "low" ? step->learning_rate * rate_multiplier : 0;
  }
};

namespace cpu {
void adamw_forward(const AdamWForward& g, Context& ctx);
}  // namespace cpu

// Throws when the sizes differ.
void adamw(Context& ctx, const AdamWForward& args);

}  // namespace rookery
