#include "ops/layer_norm/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "checking/checked_run.h"
#include "ops/dispatch.h"
#include "ops/layer_norm/layer_norm_ref.h"

namespace rookery {
namespace {

// 1 / standard deviation of a row.
double rstd_of(std::span<const double> row, double epsilon) {
  const auto width = static_cast<double>(row.size());
  double mean = 0, variance = 0;
  for (const double x : row) mean += x / width;
  for (const double x : row) variance += (x - mean) * (x - mean) / width;
  return 1 / std::sqrt(variance + epsilon);
}

}  // namespace

double LayerNormForward::magnitude(std::string_view name) const {
  if (name != "y") return 0;
  const std::vector<double> rows = elements(x);
  const auto width = static_cast<size_t>(x.cols());
  double normalised = 0;
  for (size_t begin = 0; begin < rows.size(); begin += width) {
    const std::span<const double> row(rows.data() + begin, width);
    double most = 0;
    for (const double value : row) most = std::max(most, std::abs(value));
    normalised = std::max(normalised, most * rstd_of(row, epsilon));
  }
  return normalised * largest(elements(weight)) + largest(elements(bias));
}

double LayerNormBackward::magnitude(std::string_view name) const {
  if (name != "x") return 0;
  const std::vector<double> rows = elements(forward.x), upstream = elements(dy),
                            w = elements(forward.weight);
  const size_t width = w.size();
  double most = 0;
  for (size_t begin = 0; begin < rows.size(); begin += width) {
    double scaled = 0;
    for (size_t c = 0; c < width; ++c) {
      scaled = std::max(scaled, std::abs(upstream[begin + c] * w[c]));
    }
    most = std::max(most, scaled * rstd_of({rows.data() + begin, width}, forward.epsilon));
  }
  return most;
}

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
