// Squared ReLU on the CPU. Compares instead of Max, which on x86 would turn NaN into 0.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/squared_relu/squared_relu_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "ops/elementwise_cpu-inl.h"
#include "ops/squared_relu/squared_relu.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const SquaredReluForward& g, int64_t begin, int64_t end) {
  const auto zero = hn::Zero(FloatTag());
  const auto formula = [&](int64_t, auto x) {
    return hn::IfThenZeroElse(hn::Lt(x, zero), hn::Mul(x, x));
  };
  map_elements(begin, end, g.y, formula, g.x);
}

void backward_range(const SquaredReluBackward& g, int64_t begin, int64_t end) {
  const auto zero = hn::Zero(FloatTag());
  const auto formula = [&](int64_t, auto dy, auto x) {
    return std::array{hn::Mul(hn::IfThenZeroElse(hn::Lt(x, zero), hn::Add(x, x)), dy)};
  };
  map_gradients(begin, end, std::array{g.dx}, formula, g.dy, g.forward.x);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
ROOKERY_ELEMENTWISE_CPU(squared_relu, SquaredReluForward, SquaredReluBackward)
#endif
