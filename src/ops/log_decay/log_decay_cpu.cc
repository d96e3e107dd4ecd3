// The log of the decay on the CPU.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/log_decay/log_decay_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "ops/elementwise_cpu-inl.h"
#include "ops/log_decay/log_decay.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

void forward_range(const LogDecayForward& g, int64_t begin, int64_t end) {
  const auto formula = [](int64_t, auto x) { return hn::Neg(exponential(x)); };
  map_elements(begin, end, g.y, formula, g.x);
}

void backward_range(const LogDecayBackward& g, int64_t begin, int64_t end) {
  const auto formula = [](int64_t, auto dy, auto y) { return std::array{hn::Mul(dy, y)}; };
  map_gradients(begin, end, std::array{g.dx}, formula, g.dy, g.forward.y);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
ROOKERY_ELEMENTWISE_CPU(log_decay, LogDecayForward, LogDecayBackward)
#endif
