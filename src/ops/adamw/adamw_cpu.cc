// AdamW on the CPU: elements over threads and SIMD lanes. What is one number per step is computed
// in double: in float, 1 - 0.999 has four digits and beta^t none.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/adamw/adamw_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <cassert>
#include <cmath>

#include "core/simd-inl.h"
#include "ops/adamw/adamw.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// As to_bfloat16() of core/dtype.h: rounded to nearest even, NaN stays NaN.
HWY_INLINE void store_rounded(FloatVector x, BFloat16* p, int64_t n) {
  const hn::RebindToUnsigned<FloatTag> words;
  const hn::Rebind<uint16_t, FloatTag> halves;
  const auto bits = hn::BitCast(words, x);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(words, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(words, 0x7fffu)), odd));
  const auto nan = hn::RebindMask(words, hn::IsNaN(x));
  const auto result =
      hn::TruncateTo(halves, hn::IfThenElse(nan, hn::Or(upper, hn::Set(words, 0x40u)), rounded));
  if (HWY_LIKELY(n >= float_lanes())) return hn::StoreU(result, halves, &p->bits);
  HWY_ALIGN uint16_t buffer[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(result, halves, buffer);
  std::memcpy(p, buffer, n * sizeof(uint16_t));
}

void forward_range(const AdamWTensor& g, const AdamWStep& s, double gradient_scale, int64_t begin,
                   int64_t end) {
  const FloatTag d;
  const auto set = [&](double x) { return hn::Set(d, static_cast<float>(x)); };
  const double rate = s.learning_rate * g.rate_multiplier;
  const auto scale = set(gradient_scale), epsilon = set(s.epsilon);
  const auto keep1 = set(s.beta1), take1 = set(1 - s.beta1);
  const auto keep2 = set(s.beta2), take2 = set(1 - s.beta2);
  const auto correction2 = set(1 / std::sqrt(1 - std::pow(s.beta2, s.step)));
  const auto corrected_rate = set(rate / (1 - std::pow(s.beta1, s.step)));
  const auto shrink = set(rate * g.weight_decay);
  const float* gradients = g.gradient.as<float>() + begin;
  float* parameters = g.parameter.as<float>() + begin;
  float* ms = g.m.as<float>() + begin;
  float* vs = g.v.as<float>() + begin;
  BFloat16* low = g.low ? g.low.as<BFloat16>() + begin : nullptr;
  for_vectors(end - begin, [&](int64_t i, int64_t n) {
    const auto gradient = hn::Mul(load(gradients + i, n), scale);
    const auto m = hn::MulAdd(keep1, load(ms + i, n), hn::Mul(take1, gradient));
    const auto v = hn::MulAdd(keep2, load(vs + i, n), hn::Mul(hn::Mul(take2, gradient), gradient));
    store(m, ms + i, n);
    store(v, vs + i, n);
    const auto direction = hn::Div(m, hn::MulAdd(hn::Sqrt(v), correction2, epsilon));
    auto parameter = load(parameters + i, n);
    parameter = hn::NegMulAdd(shrink, parameter, parameter);
    parameter = hn::NegMulAdd(corrected_rate, direction, parameter);
    store(parameter, parameters + i, n);
    if (low != nullptr) store_rounded(parameter, low + i, n);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_range);

namespace cpu {

void adamw_forward(const AdamWForward& g, Context& ctx) {
  assert(g.step->step >= 1);
  const double norm = *g.norm.as<double>();
  if (!std::isfinite(norm)) return;
  const double scale = clip_scale(g.step->clip, norm);
  for (const AdamWTensor& tensor : g.tensors) {
    ctx.pool->for_ranges(tensor.parameter.count(), 4096, [&](int64_t begin, int64_t end, int) {
      HWY_DYNAMIC_DISPATCH(forward_range)(tensor, *g.step, scale, begin, end);
    });
  }
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
