// The definition of the squared ReLU.
#pragma once

#include <complex>

#include "ops/squared_relu/squared_relu.h"

namespace rookery::ref {

template <class T>
void squared_relu_forward(const SquaredReluForward& g) {
  const T* x = g.x.as<T>();
  T* y = g.y.as<T>();
  for (int64_t i = 0; i < g.x.count(); ++i) y[i] = std::real(x[i]) < 0 ? T(0) : x[i] * x[i];
}

}  // namespace rookery::ref
