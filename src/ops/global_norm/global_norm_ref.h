// The definition of the global norm.
#pragma once

#include <cmath>

#include "ops/global_norm/global_norm.h"

namespace rookery::ref {

template <class T>
void global_norm_forward(const GlobalNormForward& g) {
  T sum = 0;
  for (const TensorView& gradient : g.gradients) {
    const T* x = gradient.as<T>();
    for (int64_t i = 0; i < gradient.count(); ++i) sum += x[i] * x[i];
  }
  g.norm.as<T>()[0] = std::sqrt(sum);
}

}  // namespace rookery::ref
