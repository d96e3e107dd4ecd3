#include "ops/log_decay/log_decay.h"

#include "ops/dispatch.h"
#include "ops/log_decay/log_decay_ref.h"

namespace rookery {

Tensor log_decay(Context& ctx, const Tensor& x) {
  const Tensor y = ctx.make(x.shape, x.dtype);
  const LogDecayForward forward{x, y};
  ROOKERY_FORWARD(ctx, log_decay, forward);
  ctx.record("log_decay", {x}, {y}, [&ctx, forward, x, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const LogDecayBackward backward{forward, dy, ctx.tape->gradient_out(x)};
    ROOKERY_BACKWARD(ctx, log_decay, backward);
  });
  return y;
}

}  // namespace rookery
