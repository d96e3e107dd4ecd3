#include "ops/squared_relu/squared_relu.h"

#include "ops/dispatch.h"
#include "ops/squared_relu/squared_relu_ref.h"

namespace rookery {

Tensor squared_relu(Context& ctx, const Tensor& x) {
  const Tensor y = ctx.make(x.shape, x.dtype);
  const SquaredReluForward forward{x, y};
  ROOKERY_FORWARD(ctx, squared_relu, forward);
  ctx.record("squared_relu", {x}, {y}, [&ctx, forward, x, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const SquaredReluBackward backward{forward, dy, ctx.tape->gradient_out(x)};
    ROOKERY_BACKWARD(ctx, squared_relu, backward);
  });
  return y;
}

}  // namespace rookery
