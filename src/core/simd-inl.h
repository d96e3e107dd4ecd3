// Loads, stores and reductions that any *_cpu.cc needs, compiled once per SIMD target (Highway).
// `n` is how many elements are left: at least a full vector, or the tail of an odd length.
#if defined(ROOKERY_CORE_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ROOKERY_CORE_SIMD_INL_H_
#undef ROOKERY_CORE_SIMD_INL_H_
#else
#define ROOKERY_CORE_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVector = hn::Vec<FloatTag>;

HWY_INLINE int64_t float_lanes() { return static_cast<int64_t>(hn::Lanes(FloatTag())); }

// Lanes beyond n are zero. A tail goes through a buffer: a masked load may touch memory past the
// end.
HWY_INLINE FloatVector load(const float* HWY_RESTRICT p, int64_t n) {
  const FloatTag d;
  if (HWY_LIKELY(n >= float_lanes())) return hn::LoadU(d, p);
  HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(buffer, p, n * sizeof(float));
  return hn::Load(d, buffer);
}

HWY_INLINE void store(FloatVector v, float* HWY_RESTRICT p, int64_t n) {
  const FloatTag d;
  if (HWY_LIKELY(n >= float_lanes())) return hn::StoreU(v, d, p);
  HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, n * sizeof(float));
}

// Writes v, or adds it to what is there.
HWY_INLINE void store_gradient(FloatVector v, float* HWY_RESTRICT p, int64_t n, bool accumulate) {
  store(accumulate ? hn::Add(v, load(p, n)) : v, p, n);
}

// body(i, n): elements i .. of `count`, n of them left.
template <class Body>
HWY_INLINE void for_vectors(int64_t count, const Body& body) {
  const int64_t lanes = float_lanes();
  for (int64_t i = 0; i < count; i += lanes) body(i, count - i);
}

HWY_INLINE float sum_lanes(FloatVector v) {
  const FloatTag d;
  return hn::GetLane(hn::SumOfLanes(d, v));
}
HWY_INLINE float max_lanes(FloatVector v) {
  const FloatTag d;
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

// e^x. Highway's is valid up to 104 only, and makes a NaN 0: a wrong number would go unnoticed.
HWY_INLINE FloatVector exponential(FloatVector x) {
  const FloatTag d;
  const auto result = hn::Exp(d, hn::Min(x, hn::Set(d, 100.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

// 1 / (1 + e^-x), 0 and 1 far out.
HWY_INLINE FloatVector sigmoid(FloatVector x) {
  const FloatTag d;
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exponential(hn::Neg(x))));
}

}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#endif  // toggle
