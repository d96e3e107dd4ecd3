// Embedding: y[t] = table[ids[t]].
#pragma once

#include <cstdint>

#include "core/context.h"

namespace rookery {

struct EmbeddingForward {
  Mirrored<int32_t> ids;  // [T], each in [0, V)
  TensorView table;       // [V, C], F32, BF16 or F16
  TensorView y;           // [T, C]

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("table", table);
    v.output("y", y);
    v.mirrored("ids", ids, y.rows());
  }
  // The forward copies; the backward adds all rows that have the same id.
  double terms() const { return static_cast<double>(y.rows()); }
};

struct EmbeddingBackward {
  EmbeddingForward forward;
  TensorView dy;    // [T, C]
  GradView dtable;  // [V, C]

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("table", dtable);
  }
};

namespace cpu {
void embedding_forward(const EmbeddingForward& g, Context& ctx);
void embedding_backward(const EmbeddingBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void embedding_forward(const EmbeddingForward& g, Context& ctx);
void embedding_backward(const EmbeddingBackward& g, Context& ctx);
}  // namespace cuda

// ids [count], table [V, C] -> [count, C]. Throws for an id outside the vocabulary. When recording,
// ids must stay where they are until the backward has run. A planning run (Device::kMeta) does not
// read them.
Tensor embedding(Context& ctx, Mirrored<int32_t> ids, int64_t count, const Tensor& table);

}  // namespace rookery
