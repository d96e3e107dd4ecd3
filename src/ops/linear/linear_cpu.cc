// The linear layer on the CPU: the matrix-vector kernel for few rows, products for many.

#include <algorithm>
#include <cstring>

#include "core/convert.h"
#include "ops/linear/linear.h"
#include "ops/linear/product_cpu.h"

namespace rookery::cpu {

void linear_forward(const LinearForward& g, Context& ctx) {
  const int64_t rows = g.x.rows(), outputs = g.weight.rows(), inputs = g.weight.cols();
  if (rows <= kFewRows && !ctx.deterministic) {
    const FewRows product{g.x, g.weight, g.residual.as<float>(), g.y.as<float>()};
    return few_rows_products(std::span(&product, 1), ctx);
  }
  if (g.residual) {
    ctx.pool->for_ranges(g.y.count(), 65536, [&](int64_t begin, int64_t end, int) {
      std::copy(g.residual.as<float>() + begin, g.residual.as<float>() + end,
                g.y.as<float>() + begin);
    });
  }
  if (g.low_x) convert(g.x, g.low_x, ctx.pool);
  const TensorView& x = g.low_x ? g.low_x : g.x;
  product({.m = rows,
           .n = outputs,
           .k = inputs,
           .a = {x.data, x.dtype, inputs, false},
           .b = {g.weight.data, g.weight.dtype, inputs, true},
           .c = g.y.as<float>(),
           .c_stride = outputs,
           .accumulate = static_cast<bool>(g.residual)},
          ctx);
}

void linear_group_forward(const LinearGroupForward& g, Context& ctx) {
  const std::span layers(g.part, g.count);
  const bool few = std::all_of(layers.begin(), layers.end(), [](const LinearForward& layer) {
    return layer.x.rows() <= kFewRows;
  });
  if (!few || ctx.deterministic) {
    for (const LinearForward& layer : layers) linear_forward(layer, ctx);
    return;
  }
  FewRows products[kMaxLinears];
  for (int i = 0; i < g.count; ++i) {
    products[i] = {g.part[i].x, g.part[i].weight, nullptr, g.part[i].y.as<float>()};
  }
  few_rows_products(std::span(products, g.count), ctx);
}

void linear_backward(const LinearBackward& g, Context& ctx) {
  const LinearForward& f = g.forward;
  const int64_t rows = f.x.rows(), outputs = f.weight.rows(), inputs = f.weight.cols();
  if (g.low_dy) convert(g.dy, g.low_dy, ctx.pool);
  const TensorView& dy = g.low_dy ? g.low_dy : g.dy;
  if (g.dx) {
    product({.m = rows,
             .n = inputs,
             .k = outputs,
             .a = {dy.data, dy.dtype, outputs, false},
             .b = {f.weight.data, f.weight.dtype, inputs, false},
             .c = g.dx.as<float>(),
             .c_stride = inputs,
             .accumulate = g.dx.accumulate},
            ctx);
  }
  if (g.dweight) {
    if (f.low_x) convert(f.x, f.low_x, ctx.pool);
    const TensorView& x = f.low_x ? f.low_x : f.x;
    product({.m = outputs,
             .n = inputs,
             .k = rows,
             .a = {dy.data, dy.dtype, outputs, true},
             .b = {x.data, x.dtype, inputs, false},
             .c = g.dweight.as<float>(),
             .c_stride = inputs,
             .accumulate = g.dweight.accumulate},
            ctx);
  }
  if (g.dresidual) {
    ctx.pool->for_ranges(g.dy.count(), 65536, [&](int64_t begin, int64_t end, int) {
      const float* from = g.dy.as<float>();
      float* to = g.dresidual.as<float>();
      for (int64_t i = begin; i < end; ++i)
        to[i] = g.dresidual.accumulate ? to[i] + from[i] : from[i];
    });
  }
}

}  // namespace rookery::cpu
