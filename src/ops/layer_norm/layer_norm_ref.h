// The definition of layer norm.
#pragma once

#include <cmath>

#include "ops/layer_norm/layer_norm.h"

namespace rookery::ref {

template <class T>
void layer_norm_forward(const LayerNormForward& g) {
  const int64_t rows = g.x.rows(), width = g.weight.count();
  const T* weight = g.weight.as<T>();
  const T* bias = g.bias.as<T>();
  for (int64_t t = 0; t < rows; ++t) {
    const T* x = g.x.as<T>() + t * width;
    T* y = g.y.as<T>() + t * width;
    T mean = 0, variance = 0;
    for (int64_t c = 0; c < width; ++c) mean += x[c] / static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) {
      variance += (x[c] - mean) * (x[c] - mean) / static_cast<double>(width);
    }
    const T rstd = 1.0 / std::sqrt(variance + static_cast<double>(g.epsilon));
    for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
    g.statistics.as<T>()[2 * t] = mean;
    g.statistics.as<T>()[2 * t + 1] = rstd;
  }
}

}  // namespace rookery::ref
