// The definition of AdamW.
#pragma once

#include <cmath>
#include <complex>

#include "ops/adamw/adamw.h"

namespace rookery::ref {

template <class T>
void adamw_forward(const AdamWForward& g) {
  const AdamWStep& s = *g.step;
  const double norm = std::real(*g.norm.as<T>());
  if (!std::isfinite(norm)) return;
  const double scale = clip_scale(s.clip, norm);
  const double correction1 = 1 - std::pow(s.beta1, s.step);
  const double correction2 = 1 - std::pow(s.beta2, s.step);
  for (const AdamWTensor& t : g.tensors) {
    const double rate = s.learning_rate * t.rate_multiplier;
    for (int64_t i = 0; i < t.parameter.count(); ++i) {
      T& p = t.parameter.as<T>()[i];
      T& m = t.m.as<T>()[i];
      T& v = t.v.as<T>()[i];
      const T gradient = t.gradient.as<T>()[i] * scale;
      m = s.beta1 * m + (1 - s.beta1) * gradient;
      v = s.beta2 * v + (1 - s.beta2) * gradient * gradient;
      const T direction = (m / correction1) / (std::sqrt(v / correction2) + s.epsilon);
      p -= rate * (direction + static_cast<double>(t.weight_decay) * p);
      if (t.low) t.low.as<T>()[i] = p;
    }
  }
}

}  // namespace rookery::ref
