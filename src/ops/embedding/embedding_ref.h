// The definition of the embedding.
#pragma once

#include "ops/embedding/embedding.h"

namespace rookery::ref {

template <class T>
void embedding_forward(const EmbeddingForward& g) {
  const int64_t rows = g.y.rows(), width = g.table.shape[1];
  for (int64_t t = 0; t < rows; ++t) {
    const T* row = g.table.as<T>() + g.ids[t] * width;
    T* y = g.y.as<T>() + t * width;
    for (int64_t c = 0; c < width; ++c) y[c] = row[c];
  }
}

}  // namespace rookery::ref
