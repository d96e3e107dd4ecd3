// Sigmoid gate on the CPU. The backward computes the sigmoid again: an exponential costs less than
// another tensor kept for the backward.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/sigmoid_gate/sigmoid_gate_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "ops/elementwise_cpu-inl.h"
#include "ops/sigmoid_gate/sigmoid_gate.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const SigmoidGateForward& g, int64_t begin, int64_t end) {
  const auto formula = [](int64_t, auto r, auto v, auto residual) {
    return hn::MulAdd(sigmoid(r), v, residual);
  };
  map_elements(begin, end, g.y, formula, g.r, g.v, g.residual);
}

void backward_range(const SigmoidGateBackward& g, int64_t begin, int64_t end) {
  const auto one = hn::Set(FloatTag(), 1.0f);
  const auto formula = [one](int64_t, auto dy, auto r, auto v) {
    const auto gate = sigmoid(r);
    const auto dv = hn::Mul(dy, gate);
    return std::array{hn::Mul(hn::Mul(dv, v), hn::Sub(one, gate)), dv, dy};
  };
  map_gradients(begin, end, std::array{g.dr, g.dv, g.dresidual}, formula, g.dy, g.forward.r,
                g.forward.v);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
ROOKERY_ELEMENTWISE_CPU(sigmoid_gate, SigmoidGateForward, SigmoidGateBackward)
#endif
