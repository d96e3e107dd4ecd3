#include "ops/layer_norm/layer_norm.h"

#include "ops/dispatch.h"
#include "ops/layer_norm/layer_norm_ref.h"

namespace rookery {

Tensor layer_norm(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  float epsilon) {
  return layer_norm_as(ctx, ctx.dtype, x, weight, bias, epsilon);
}

Tensor layer_norm_as(Context& ctx, DType y_type, const Tensor& x, const Tensor& weight,
                     const Tensor& bias, float epsilon) {
  check(x.shape.rank() == 2 && weight.count() == x.cols() && bias.count() == x.cols()) ||
      fail("layer_norm: x {} needs weight and bias of its width, got {} and {}",
           x.shape.to_string(), weight.shape.to_string(), bias.shape.to_string());
  const Tensor y = ctx.make(x.shape, y_type);
  const LayerNormForward forward{x,       weight, bias,
                                 epsilon, y,      ctx.make({x.rows(), 2}, ctx.wide_dtype())};
  ROOKERY_FORWARD(ctx, layer_norm, forward);
  ctx.record("layer_norm", {x, weight, bias}, {y}, [&ctx, forward, x, weight, bias, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const ArenaScope scope(*ctx.arena);
    LayerNormBackward backward{forward,
                               dy,
                               ctx.tape->gradient_out(x),
                               ctx.tape->gradient_out(weight),
                               ctx.tape->gradient_out(bias),
                               {}};
    if (ctx.target() != Device::kCuda) {
      backward.partial_sums = ctx.make({ctx.threads(), 2, x.cols()});
    }
    ROOKERY_BACKWARD(ctx, layer_norm, backward);
  });
  return y;
}

}  // namespace rookery
