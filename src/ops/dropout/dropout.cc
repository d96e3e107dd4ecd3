#include "ops/dropout/dropout.h"

#include "ops/dispatch.h"
#include "ops/dropout/dropout_ref.h"

namespace rookery {

Tensor dropout(Context& ctx, const Tensor& x, float probability, const Tensor& residual) {
  check(probability >= 0 && probability < 1) ||  // written so that NaN fails
      fail("dropout: the probability must be at least 0 and less than 1, got {}", probability);
  check(!residual || residual.shape == x.shape) ||
      fail("dropout: x {} and residual {} must have one shape", x.shape.to_string(),
           residual.shape.to_string());
  const Tensor y = ctx.make(x.shape, residual ? residual.dtype : x.dtype);
  const DropoutForward forward{
      x, residual, probability, ctx.seed, ctx.random_base, ctx.random_stream++, y};
  ROOKERY_FORWARD(ctx, dropout, forward);
  ctx.record("dropout", {x, residual}, {y}, [&ctx, forward, x, residual, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    DropoutBackward backward{forward, dy, ctx.tape->gradient_out(x), {}};
    if (!ctx.tape->hand_on(y, residual)) backward.dresidual = ctx.tape->gradient_out(residual);
    ROOKERY_BACKWARD(ctx, dropout, backward);
  });
  return y;
}

}  // namespace rookery
