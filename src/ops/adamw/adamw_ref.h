// The definition of AdamW.
#pragma once

#include <cmath>

#include "ops/adamw/adamw.h"

namespace rookery::ref {

template <class T>
void adamw_forward(const AdamWForward& g) {
  const AdamWStep& s = *g.step;
  const double rate = s.learning_rate * g.rate_multiplier;
  const double correction1 = 1 - std::pow(s.beta1, s.step);
  const double correction2 = 1 - std::pow(s.beta2, s.step);
  for (int64_t i = 0; i < g.parameter.count(); ++i) {
    T& p = g.parameter.as<T>()[i];
    T& m = g.m.as<T>()[i];
    T& v = g.v.as<T>()[i];
    const T gradient = g.gradient.as<T>()[i] * s.gradient_scale;
    m = s.beta1 * m + (1 - s.beta1) * gradient;
    v = s.beta2 * v + (1 - s.beta2) * gradient * gradient;
    const T direction = (m / correction1) / (std::sqrt(v / correction2) + s.epsilon);
    p -= rate * (direction + static_cast<double>(g.weight_decay) * p);
    if (g.low) g.low.as<T>()[i] = p;
  }
}

}  // namespace rookery::ref
