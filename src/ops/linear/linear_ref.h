// The definition of the linear layer.
#pragma once

#include "ops/linear/linear.h"

namespace rookery::ref {

template <class T>
void linear_forward(const LinearForward& g) {
  const int64_t rows = g.x.rows(), inputs = g.weight.cols(), outputs = g.weight.rows();
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t n = 0; n < outputs; ++n) {
      T sum = g.residual ? g.residual.as<T>()[t * outputs + n] : T(0);
      for (int64_t k = 0; k < inputs; ++k) {
        sum += g.x.as<T>()[t * inputs + k] * g.weight.as<T>()[n * inputs + k];
      }
      g.y.as<T>()[t * outputs + n] = sum;
    }
  }
}

template <class T>
void linear_group_forward(const LinearGroupForward& g) {
  for (int i = 0; i < g.count; ++i) linear_forward<T>(g.part[i]);
}

}  // namespace rookery::ref
