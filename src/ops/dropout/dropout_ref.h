// The definition of dropout.
#pragma once

#include "core/random.h"
#include "ops/dropout/dropout.h"

namespace rookery::ref {

template <class T>
void dropout_forward(const DropoutForward& g) {
  const T* x = g.x.as<T>();
  const T* residual = g.residual.as<T>();
  T* y = g.y.as<T>();
  const uint32_t threshold = g.threshold();
  const double scale = 1 / (1 - static_cast<double>(g.probability));
  for (int64_t i = 0; i < g.x.count(); ++i) {
    const bool keep = philox(g.seed, g.stream(), i / 4)[i % 4] >= threshold;
    y[i] = keep ? x[i] * scale : T(0);
    if (residual != nullptr) y[i] += residual[i];
  }
}

}  // namespace rookery::ref
