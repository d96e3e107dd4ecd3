// Sigmoid gate on the CPU: elements over threads and SIMD lanes. The backward computes the sigmoid
// again: an exponential costs less than another tensor kept for the backward.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/sigmoid_gate/sigmoid_gate_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/sigmoid_gate/sigmoid_gate.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const SigmoidGateForward& g, int64_t begin, int64_t end) {
  const float* r = g.r.as<float>();
  const float* v = g.v.as<float>();
  const float* residual = g.residual.as<float>();
  float* y = g.y.as<float>();
  for_vectors(end - begin, [&](int64_t offset, int64_t n) {
    const int64_t i = begin + offset;
    const auto base = residual == nullptr ? hn::Zero(FloatTag()) : load(residual + i, n);
    store(hn::MulAdd(sigmoid(load(r + i, n)), load(v + i, n), base), y + i, n);
  });
}

void backward_range(const SigmoidGateBackward& g, int64_t begin, int64_t end) {
  const auto one = hn::Set(FloatTag(), 1.0f);
  const float* r = g.forward.r.as<float>();
  const float* v = g.forward.v.as<float>();
  const float* dy = g.dy.as<float>();
  for_vectors(end - begin, [&](int64_t offset, int64_t n) {
    const int64_t i = begin + offset;
    const auto upstream = load(dy + i, n);
    const auto gate = sigmoid(load(r + i, n));
    const auto dv = hn::Mul(upstream, gate);
    if (g.dr) {
      const auto dr = hn::Mul(hn::Mul(dv, load(v + i, n)), hn::Sub(one, gate));
      store_gradient(dr, g.dr.as<float>() + i, n, g.dr.accumulate);
    }
    if (g.dv) store_gradient(dv, g.dv.as<float>() + i, n, g.dv.accumulate);
    if (g.dresidual) {
      store_gradient(upstream, g.dresidual.as<float>() + i, n, g.dresidual.accumulate);
    }
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

void sigmoid_gate_forward(const SigmoidGateForward& g, Context& ctx) {
  ctx.pool->for_ranges(g.y.count(), 4096, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_range)(g, begin, end);
  });
}

void sigmoid_gate_backward(const SigmoidGateBackward& g, Context& ctx) {
  ctx.pool->for_ranges(g.dy.count(), 4096, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_range)(g, begin, end);
  });
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
