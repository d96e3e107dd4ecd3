// The softmax of one row of logits, in training and in evaluation. Included once per SIMD target
// (Highway).
#if defined(ROOKERY_OPS_CROSS_ENTROPY_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ROOKERY_OPS_CROSS_ENTROPY_SOFTMAX_INL_H_
#undef ROOKERY_OPS_CROSS_ENTROPY_SOFTMAX_INL_H_
#else
#define ROOKERY_OPS_CROSS_ENTROPY_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {

HWY_INLINE float largest_of(const float* z, int64_t count) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -3.0e38f);
  auto maximum = lowest;
  for_vectors(count, [&](int64_t i, int64_t n) {
    auto x = load(z + i, n);
    if (n < float_lanes()) x = hn::IfThenElse(hn::FirstN(d, n), x, lowest);
    maximum = hn::Max(maximum, x);
  });
  return max_lanes(maximum);
}

// The sum of e^(z - largest). The exponentials are float32, and go to `exponentials` unless it is
// null (it may be z); sums of 256 of them are float32, and the sum of these is float64.
HWY_INLINE double sum_of_exponentials(const float* z, int64_t count, float largest,
                                      float* exponentials) {
  constexpr int64_t kBlock = 256;
  const FloatTag d;
  const auto shift = hn::Set(d, largest);
  double total = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    auto sum = hn::Zero(d);
    for_vectors(std::min(kBlock, count - first), [&](int64_t i, int64_t n) {
      auto e = exponential(hn::Sub(load(z + first + i, n), shift));
      if (n < float_lanes()) e = hn::IfThenElseZero(hn::FirstN(d, n), e);
      sum = hn::Add(sum, e);
      if (exponentials != nullptr) store(e, exponentials + first + i, n);
    });
    total += static_cast<double>(sum_lanes(sum));
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#endif  // toggle
