// Squared ReLU on the CPU: elements over threads and SIMD lanes. Compares instead of Max, which on
// x86 would turn NaN into 0.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/squared_relu/squared_relu_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/squared_relu/squared_relu.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const SquaredReluForward& g, int64_t begin, int64_t end) {
  const auto zero = hn::Zero(FloatTag());
  const float* x = g.x.as<float>() + begin;
  float* y = g.y.as<float>() + begin;
  for_vectors(end - begin, [&](int64_t i, int64_t n) {
    const auto v = load(x + i, n);
    store(hn::IfThenZeroElse(hn::Lt(v, zero), hn::Mul(v, v)), y + i, n);
  });
}

void backward_range(const SquaredReluBackward& g, int64_t begin, int64_t end) {
  const auto zero = hn::Zero(FloatTag());
  const float* x = g.forward.x.as<float>() + begin;
  const float* dy = g.dy.as<float>() + begin;
  float* dx = g.dx.as<float>() + begin;
  for_vectors(end - begin, [&](int64_t i, int64_t n) {
    const auto v = load(x + i, n);
    const auto slope = hn::IfThenZeroElse(hn::Lt(v, zero), hn::Add(v, v));
    store_gradient(hn::Mul(slope, load(dy + i, n)), dx + i, n, g.dx.accumulate);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_range);
HWY_EXPORT(backward_range);

namespace cpu {

void squared_relu_forward(const SquaredReluForward& g, Context& ctx) {
  ctx.pool->for_ranges(g.x.count(), 8192, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_range)(g, begin, end);
  });
}

void squared_relu_backward(const SquaredReluBackward& g, Context& ctx) {
  if (!g.dx) return;
  ctx.pool->for_ranges(g.forward.x.count(), 8192, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_range)(g, begin, end);
  });
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
