// The definition of the log of the decay.
#pragma once

#include <cmath>

#include "ops/log_decay/log_decay.h"

namespace rookery::ref {

template <class T>
void log_decay_forward(const LogDecayForward& g) {
  const T* x = g.x.as<T>();
  T* y = g.y.as<T>();
  for (int64_t i = 0; i < g.x.count(); ++i) y[i] = -std::exp(x[i]);
}

}  // namespace rookery::ref
