// The log of the decay on the CPU: elements over threads and SIMD lanes.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/log_decay/log_decay_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/log_decay/log_decay.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const LogDecayForward& g, int64_t begin, int64_t end) {
  const float* x = g.x.as<float>() + begin;
  float* y = g.y.as<float>() + begin;
  for_vectors(end - begin,
              [&](int64_t i, int64_t n) { store(hn::Neg(exponential(load(x + i, n))), y + i, n); });
}

void backward_range(const LogDecayBackward& g, int64_t begin, int64_t end) {
  const float* y = g.forward.y.as<float>() + begin;
  const float* dy = g.dy.as<float>() + begin;
  float* dx = g.dx.as<float>() + begin;
  for_vectors(end - begin, [&](int64_t i, int64_t n) {
    store_gradient(hn::Mul(load(dy + i, n), load(y + i, n)), dx + i, n, g.dx.accumulate);
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

void log_decay_forward(const LogDecayForward& g, Context& ctx) {
  ctx.pool->for_ranges(g.x.count(), 4096, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_range)(g, begin, end);
  });
}

void log_decay_backward(const LogDecayBackward& g, Context& ctx) {
  if (!g.dx) return;
  ctx.pool->for_ranges(g.forward.x.count(), 4096, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_range)(g, begin, end);
  });
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
