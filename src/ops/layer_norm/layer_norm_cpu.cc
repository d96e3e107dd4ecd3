// Layer norm on the CPU: rows over threads, channels over SIMD lanes. The variance is taken around
// the mean in a second pass over the row, which is in the cache: E[x^2] - mean^2 would lose digits.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/layer_norm/layer_norm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/layer_norm/layer_norm.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_rows(const LayerNormForward& g, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t width = g.weight.count();
  const float scale = 1.0f / static_cast<float>(width);
  const float* weight = g.weight.as<float>();
  const float* bias = g.bias.as<float>();
  for (int64_t t = begin; t < end; ++t) {
    const float* x = g.x.as<float>() + t * width;
    float* y = g.y.as<float>() + t * width;
    auto sum = hn::Zero(d);
    for_vectors(width, [&](int64_t i, int64_t n) { sum = hn::Add(sum, load(x + i, n)); });
    const float mean = sum_lanes(sum) * scale;
    const auto vmean = hn::Set(d, mean);
    auto squares = hn::Zero(d);
    for_vectors(width, [&](int64_t i, int64_t n) {
      auto centred = hn::Sub(load(x + i, n), vmean);
      if (n < float_lanes()) centred = hn::IfThenElseZero(hn::FirstN(d, n), centred);
      squares = hn::MulAdd(centred, centred, squares);
    });
    const float rstd = 1.0f / std::sqrt(sum_lanes(squares) * scale + g.epsilon);
    const auto vrstd = hn::Set(d, rstd);
    for_vectors(width, [&](int64_t i, int64_t n) {
      const auto normal = hn::Mul(hn::Sub(load(x + i, n), vmean), vrstd);
      store(hn::MulAdd(normal, load(weight + i, n), load(bias + i, n)), y + i, n);
    });
    g.statistics.as<float>()[2 * t] = mean;
    g.statistics.as<float>()[2 * t + 1] = rstd;
  }
}

// With h = dy * weight and n = (x - mean) * rstd:  dx = rstd * (h - mean(h) - n * mean(h n)),
// dweight = sum over rows of dy n, dbias = sum over rows of dy.
void backward_rows(const LayerNormBackward& g, int64_t begin, int64_t end, float* dweight,
                   float* dbias) {
  const FloatTag d;
  const LayerNormForward& f = g.forward;
  const int64_t width = f.weight.count();
  const float scale = 1.0f / static_cast<float>(width);
  const float* weight = f.weight.as<float>();
  for (int64_t t = begin; t < end; ++t) {
    const float* x = f.x.as<float>() + t * width;
    const float* dy = g.dy.as<float>() + t * width;
    const auto mean = hn::Set(d, f.statistics.as<float>()[2 * t]);
    const auto rstd = hn::Set(d, f.statistics.as<float>()[2 * t + 1]);
    auto sum_h = hn::Zero(d), sum_hn = hn::Zero(d);
    for_vectors(width, [&](int64_t i, int64_t n) {
      const auto upstream = load(dy + i, n);  // zero beyond the end, so the sums need no mask
      const auto normal = hn::Mul(hn::Sub(load(x + i, n), mean), rstd);
      const auto h = hn::Mul(upstream, load(weight + i, n));
      sum_h = hn::Add(sum_h, h);
      sum_hn = hn::MulAdd(h, normal, sum_hn);
      store(hn::MulAdd(upstream, normal, load(dweight + i, n)), dweight + i, n);
      store(hn::Add(upstream, load(dbias + i, n)), dbias + i, n);
    });
    if (!g.dx) continue;
    const auto mean_h = hn::Set(d, sum_lanes(sum_h) * scale);
    const auto mean_hn = hn::Set(d, sum_lanes(sum_hn) * scale);
    float* dx = g.dx.as<float>() + t * width;
    for_vectors(width, [&](int64_t i, int64_t n) {
      const auto normal = hn::Mul(hn::Sub(load(x + i, n), mean), rstd);
      const auto h = hn::Mul(load(dy + i, n), load(weight + i, n));
      const auto gradient = hn::Mul(rstd, hn::Sub(hn::Sub(h, mean_h), hn::Mul(normal, mean_hn)));
      store_gradient(gradient, dx + i, n, g.dx.accumulate);
    });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_rows);
HWY_EXPORT(backward_rows);

namespace cpu {

void layer_norm_forward(const LayerNormForward& g, Context& ctx) {
  ctx.pool->for_ranges(g.x.rows(), 8, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_rows)(g, begin, end);
  });
}

void layer_norm_backward(const LayerNormBackward& g, Context& ctx) {
  const int64_t width = g.forward.weight.count();
  float* partial = g.partial_sums.as<float>();
  std::fill_n(partial, g.partial_sums.count(), 0.0f);
  // Not by worker but by range: which thread takes a range must not change the sums.
  const int64_t rows = g.forward.x.rows(), ranges = ctx.threads();
  ctx.pool->run(ranges, [&](int64_t range, int) {
    float* dweight = partial + range * 2 * width;
    HWY_DYNAMIC_DISPATCH(backward_rows)
    (g, rows * range / ranges, rows * (range + 1) / ranges, dweight, dweight + width);
  });
  const auto reduce = [&](const GradView& gradient, int64_t offset) {
    if (!gradient) return;
    float* out = gradient.as<float>();
    if (!gradient.accumulate) std::fill_n(out, width, 0.0f);
    for (int64_t range = 0; range < ranges; ++range) {
      const float* sums = partial + range * 2 * width + offset;
      for (int64_t c = 0; c < width; ++c) out[c] += sums[c];
    }
  };
  reduce(g.dweight, 0);
  reduce(g.dbias, width);
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
