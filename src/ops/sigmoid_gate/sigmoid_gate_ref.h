// The definition of the sigmoid gate.
#pragma once

#include <cmath>

#include "ops/sigmoid_gate/sigmoid_gate.h"

namespace rookery::ref {

template <class T>
void sigmoid_gate_forward(const SigmoidGateForward& g) {
  const T* r = g.r.as<T>();
  const T* v = g.v.as<T>();
  const T* residual = g.residual.as<T>();
  T* y = g.y.as<T>();
  for (int64_t i = 0; i < g.y.count(); ++i) {
    y[i] = v[i] / (1.0 + std::exp(-r[i]));
    if (residual != nullptr) y[i] += residual[i];
  }
}

}  // namespace rookery::ref
