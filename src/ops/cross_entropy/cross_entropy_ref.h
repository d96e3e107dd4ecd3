// The definition of the head with its loss. The largest logit is chosen by its real part.
#pragma once

#include <complex>
#include <vector>

#include "ops/cross_entropy/cross_entropy.h"

namespace rookery::ref {

template <class T>
void cross_entropy_forward(const CrossEntropyForward& g) {
  const int64_t rows = g.x.rows(), width = g.weight.cols(), vocabulary = g.weight.rows();
  std::vector<T> z(vocabulary);
  T objective = 0, loss_sum = 0;
  for (int64_t t = 0; t < rows; ++t) {
    T& loss = g.losses.as<T>()[t];
    loss = 0;
    if (g.targets[t] < 0) continue;
    T largest = 0;
    for (int64_t j = 0; j < vocabulary; ++j) {
      z[j] = 0;
      for (int64_t c = 0; c < width; ++c) {
        z[j] += g.x.as<T>()[t * width + c] * g.weight.as<T>()[j * width + c];
      }
      if (j == 0 || std::real(z[j]) > std::real(largest)) largest = z[j];
    }
    T sum = 0;
    for (int64_t j = 0; j < vocabulary; ++j) sum += std::exp(z[j] - largest);
    loss = largest + std::log(sum) - z[g.targets[t]];
    loss_sum += loss;
    objective += g.scale * (loss + 0.5 * g.l2wrap * largest * largest);
  }
  g.objective.as<T>()[0] = objective;
  g.loss_sum.as<T>()[0] = loss_sum;
}

}  // namespace rookery::ref
