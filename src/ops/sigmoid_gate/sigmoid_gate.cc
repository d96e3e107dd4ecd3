#include "ops/sigmoid_gate/sigmoid_gate.h"

#include "ops/dispatch.h"
#include "ops/sigmoid_gate/sigmoid_gate_ref.h"

namespace rookery {

Tensor sigmoid_gate(Context& ctx, const Tensor& r, const Tensor& v, const Tensor& residual) {
  check(r.shape == v.shape && (!residual || residual.shape == v.shape)) ||
      fail("sigmoid_gate: r {}, v {} and residual {} must have one shape", r.shape.to_string(),
           v.shape.to_string(), residual ? residual.shape.to_string() : "(none)");
  const Tensor y = ctx.make(v.shape, residual ? residual.dtype : v.dtype);
  const SigmoidGateForward forward{r, v, residual, y};
  ROOKERY_FORWARD(ctx, sigmoid_gate, forward);
  ctx.record("sigmoid_gate", {r, v, residual}, {y}, [&ctx, forward, r, v, residual, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    SigmoidGateBackward backward{
        forward, dy, ctx.tape->gradient_out(r), ctx.tape->gradient_out(v), {}};
    if (!ctx.tape->hand_on(y, residual)) backward.dresidual = ctx.tape->gradient_out(residual);
    ROOKERY_BACKWARD(ctx, sigmoid_gate, backward);
  });
  return y;
}

}  // namespace rookery
