#include "ops/embedding/embedding.h"

#include "ops/dispatch.h"
#include "ops/embedding/embedding_ref.h"

namespace rookery {

Tensor embedding(Context& ctx, Mirrored<int32_t> ids, int64_t count, const Tensor& table) {
  check(table.shape.rank() == 2) ||
      fail("embedding: the table must be [vocabulary, width], got {}", table.shape.to_string());
  const int64_t vocabulary = table.shape[0];
  if (ctx.device != Device::kMeta) {
    for (int64_t t = 0; t < count; ++t) {
      check(ids[t] >= 0 && ids[t] < vocabulary) ||
          fail("embedding: id {} at position {} is outside the vocabulary of {} (0 to {})", ids[t],
               t, vocabulary, vocabulary - 1);
    }
  }
  const Tensor y = ctx.make({count, table.shape[1]}, ctx.wide_dtype());
  const EmbeddingForward forward{ids, table, y};
  ROOKERY_FORWARD(ctx, embedding, forward);
  ctx.record("embedding", {table}, {y}, [&ctx, forward, table, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const EmbeddingBackward backward{forward, dy, ctx.tape->gradient_out(table)};
    ROOKERY_BACKWARD(ctx, embedding, backward);
  });
  return y;
}

}  // namespace rookery
