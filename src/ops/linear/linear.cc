#include "ops/linear/linear.h"

#include "core/dispatch.h"
#include "ops/linear/linear_ref.h"
#include "ops/linear/product_cpu.h"

namespace rookery {

TensorView low_copy(Context& ctx, const TensorView& x, const TensorView& weight) {
  const bool on_cpu = ctx.device == Device::kCpu || ctx.device == Device::kMeta;
  if (!on_cpu || weight.dtype != DType::kBF16 || !cpu::has_fast_bf16_products()) return {};
  if (x.rows() <= cpu::kFewRows || ctx.deterministic) return {};
  return ctx.arena->make(x.shape, DType::kBF16);
}

Tensor linear(Context& ctx, const Tensor& x, const Weight& w, const Tensor& residual) {
  const TensorView& weight = w.product();
  check(x.shape.rank() == 2 && weight.shape.rank() == 2 && x.cols() == weight.shape[1],
        "linear: x {} does not fit the weight {} (out, in)", x.shape.to_string(),
        weight.shape.to_string());
  const Tensor y = ctx.make({x.rows(), weight.rows()});
  check(!residual || residual.shape == y.shape, "linear: the residual {} should be {}",
        residual.shape.to_string(), y.shape.to_string());
  LinearForward forward{x, weight, residual, y, {}};
  {
    const ArenaScope scope(*ctx.arena);
    forward.low_x = low_copy(ctx, x, weight);
    ROOKERY_FORWARD(ctx, linear, forward);
  }
  const Tensor value = w.value;
  ctx.record("linear", {x, value, residual}, {y}, [&ctx, forward, x, value, residual, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const ArenaScope scope(*ctx.arena);
    LinearBackward backward{forward,
                            dy,
                            ctx.tape->gradient_out(x),
                            ctx.tape->gradient_out(value),
                            ctx.tape->gradient_out(residual),
                            low_copy(ctx, dy, forward.weight)};
    backward.forward.low_x = low_copy(ctx, x, forward.weight);
    ROOKERY_BACKWARD(ctx, linear, backward);
  });
  return y;
}

}  // namespace rookery
