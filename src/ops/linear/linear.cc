#include "ops/linear/linear.h"

#include "ops/dispatch.h"
#include "ops/linear/linear_ref.h"
#include "ops/linear/product_cpu.h"

namespace rookery {

TensorView low_copy(Context& ctx, const TensorView& x, const TensorView& weight) {
  if (ctx.target() != Device::kCpu || weight.dtype != DType::kBF16 ||
      !cpu::has_fast_bf16_products())
    return {};
  if (x.rows() <= cpu::kFewRows || ctx.deterministic) return {};
  return ctx.arena->make(x.shape, DType::kBF16);
}

namespace {

// Checks the shapes and makes the output.
LinearForward prepare(Context& ctx, const Tensor& x, const Weight& w, const Tensor& residual,
                      DType y_type, Tensor& y) {
  const TensorView& weight = w.product();
  check(x.shape.rank() == 2 && weight.shape.rank() == 2 && x.cols() == weight.shape[1]) ||
      fail("linear: x {} does not fit the weight {} (out, in)", x.shape.to_string(),
           weight.shape.to_string());
  y = ctx.make({x.rows(), weight.rows()}, y_type);
  check(!residual || residual.shape == y.shape) ||
      fail("linear: the residual {} should be {}", residual.shape.to_string(), y.shape.to_string());
  return {x, weight, residual, y, {}, w.padded};
}

void record(Context& ctx, const LinearForward& forward, const Tensor& x, const Tensor& value,
            const Tensor& residual, const Tensor& y) {
  ctx.record("linear", {x, value, residual}, {y}, [&ctx, forward, x, value, residual, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const ArenaScope scope(*ctx.arena);
    LinearBackward backward{forward,
                            dy,
                            ctx.tape->gradient_out(x),
                            ctx.tape->gradient_out(value),
                            {},
                            low_copy(ctx, dy, forward.weight)};
    if (!ctx.tape->hand_on(y, residual)) backward.dresidual = ctx.tape->gradient_out(residual);
    backward.forward.low_x = low_copy(ctx, x, forward.weight);
    ROOKERY_BACKWARD(ctx, linear, backward);
  });
}

}  // namespace

Tensor linear(Context& ctx, const Tensor& x, const Weight& w, const Tensor& residual) {
  return linear_as(ctx, residual ? residual.dtype : ctx.dtype, x, w, residual);
}

Tensor linear_as(Context& ctx, DType y_type, const Tensor& x, const Weight& w,
                 const Tensor& residual) {
  Tensor y;
  LinearForward forward = prepare(ctx, x, w, residual, y_type, y);
  {
    const ArenaScope scope(*ctx.arena);
    forward.low_x = low_copy(ctx, x, forward.weight);
    ROOKERY_FORWARD(ctx, linear, forward);
  }
  record(ctx, forward, x, w.value, residual, y);
  return y;
}

std::vector<Tensor> linear_group(Context& ctx, std::initializer_list<LinearPair> pairs) {
  check(pairs.size() >= 1 && pairs.size() <= kMaxLinears) ||
      fail("linear_group: {} layers, one call takes 1 to {}", pairs.size(), kMaxLinears);
  std::vector<Tensor> outputs(pairs.size());
  LinearGroupForward group;
  for (const LinearPair& pair : pairs) {
    group.part[group.count] = prepare(ctx, pair.x, pair.w, {}, ctx.dtype, outputs[group.count]);
    ++group.count;
  }
  {
    const ArenaScope scope(*ctx.arena);
    for (int i = 0; i < group.count; ++i) {
      group.part[i].low_x = low_copy(ctx, group.part[i].x, group.part[i].weight);
    }
    ROOKERY_FORWARD(ctx, linear_group, group);
  }
  for (int i = 0; i < group.count; ++i) {
    const LinearPair& pair = pairs.begin()[i];
    record(ctx, group.part[i], pair.x, pair.w.value, {}, outputs[i]);
  }
  return outputs;
}

}  // namespace rookery
