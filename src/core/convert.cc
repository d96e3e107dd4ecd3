// Vectors between the types of weights and activations, one number after the other between the
// rest. The vector forms are the definitions of core/dtype.h in the same integer arithmetic,
// because the processor's own instructions treat NaN in other ways.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/convert.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/convert.h"

#include <cstring>
#include <type_traits>

#include "core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

using WordTag = hn::RebindToUnsigned<FloatTag>;
using HalfWordTag = hn::Rebind<uint16_t, WordTag>;
using WordVector = hn::Vec<WordTag>;

HWY_INLINE WordVector word(uint32_t x) { return hn::Set(WordTag(), x); }

// A whole vector of numbers as the bits of float32.
HWY_INLINE WordVector load_words(const float* p) {
  return hn::BitCast(WordTag(), hn::LoadU(FloatTag(), p));
}
HWY_INLINE WordVector load_half_words(const void* p) {
  return hn::PromoteTo(WordTag(), hn::LoadU(HalfWordTag(), static_cast<const uint16_t*>(p)));
}
HWY_INLINE WordVector load_words(const BFloat16* p) {
  return hn::ShiftLeft<16>(load_half_words(p));
}
HWY_INLINE WordVector load_words(const Float16* p) {
  const auto half = load_half_words(p);
  const auto sign = hn::ShiftLeft<16>(hn::And(half, word(0x8000)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, word(0x7fff)));
  const auto rebias = word(112 << 23);
  auto result = hn::Add(magnitude, rebias);
  // Infinity and NaN have the largest exponent there, too.
  result = hn::IfThenElse(hn::Gt(magnitude, word((31 << 23) - 1)), hn::Add(result, rebias), result);
  // Subnormal: as the fraction of a number with the smallest exponent, which is then taken away.
  const FloatTag d;
  const auto smallest = word(113 << 23);
  const auto subnormal =
      hn::Sub(hn::BitCast(d, hn::Add(magnitude, smallest)), hn::BitCast(d, smallest));
  result =
      hn::IfThenElse(hn::Lt(magnitude, word(1 << 23)), hn::BitCast(WordTag(), subnormal), result);
  return hn::Or(sign, result);
}

HWY_INLINE void store_half_words(WordVector x, void* p) {
  hn::StoreU(hn::TruncateTo(HalfWordTag(), x), HalfWordTag(), static_cast<uint16_t*>(p));
}
HWY_INLINE void store_words(WordVector x, float* p) {
  hn::StoreU(hn::BitCast(FloatTag(), x), FloatTag(), p);
}
HWY_INLINE void store_words(WordVector x, BFloat16* p) {
  const auto odd = hn::And(hn::ShiftRight<16>(x), word(1));
  const auto rounded = hn::Add(hn::Add(x, word(0x7fff)), odd);
  const auto is_nan = hn::Gt(hn::And(x, word(0x7fffffff)), word(0x7f800000));
  const auto quiet = hn::Or(x, word(0x400000));
  store_half_words(hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded)), p);
}
HWY_INLINE void store_words(WordVector x, Float16* p) {
  const FloatTag d;
  const auto sign = hn::And(hn::ShiftRight<16>(x), word(0x8000));
  const auto magnitude = hn::And(x, word(0x7fffffff));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), word(1));
  auto result =
      hn::ShiftRight<13>(hn::Sub(hn::Add(hn::Add(magnitude, word(0xfff)), odd), word(0x38000000)));
  // Subnormal: the addition rounds.
  const auto shifted = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f));
  result = hn::IfThenElse(hn::Lt(magnitude, word(0x38800000)),
                          hn::Sub(hn::BitCast(WordTag(), shifted), word(0x3f000000)), result);
  result = hn::IfThenElse(hn::Gt(magnitude, word(0x477fefff)), word(0x7c00), result);
  result = hn::IfThenElse(hn::Gt(magnitude, word(0x7f800000)), word(0x7e00), result);
  store_half_words(hn::Or(sign, result), p);
}

template <class T>
auto widen(T x) {
  if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>) {
    return to_float(x);
  } else {
    return x;
  }
}
template <class To, class From>
To narrow(From x) {
  if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, Float16>) {
    return to_float16(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <class T>
constexpr bool kHasVectors =
    std::is_same_v<T, float> || std::is_same_v<T, Float16> || std::is_same_v<T, BFloat16>;

template <class From, class To>
void convert_typed(const From* HWY_RESTRICT from, To* HWY_RESTRICT to, int64_t count) {
  int64_t i = 0;
  if constexpr (kHasVectors<From> && kHasVectors<To>) {
    for (const int64_t lanes = float_lanes(); i + lanes <= count; i += lanes) {
      store_words(load_words(from + i), to + i);
    }
  }
  for (; i < count; ++i) to[i] = narrow<To>(widen(from[i]));
}

template <class From>
void convert_from(const TensorView& from, const TensorView& to, int64_t begin, int64_t end) {
  const From* source = from.as<From>() + begin;
  switch (to.dtype) {
    case DType::kF32:
      return convert_typed(source, to.as<float>() + begin, end - begin);
    case DType::kF16:
      return convert_typed(source, to.as<Float16>() + begin, end - begin);
    case DType::kBF16:
      return convert_typed(source, to.as<BFloat16>() + begin, end - begin);
    case DType::kF64:
      return convert_typed(source, to.as<double>() + begin, end - begin);
    case DType::kC128:
      return convert_typed(source, to.as<std::complex<double>>() + begin, end - begin);
  }
}

// Elements begin .. end - 1 of two types that differ.
void convert_range(const TensorView& from, const TensorView& to, int64_t begin, int64_t end) {
  switch (from.dtype) {
    case DType::kF32:
      return convert_from<float>(from, to, begin, end);
    case DType::kF16:
      return convert_from<Float16>(from, to, begin, end);
    case DType::kBF16:
      return convert_from<BFloat16>(from, to, begin, end);
    case DType::kF64:
      return convert_from<double>(from, to, begin, end);
    case DType::kC128:
      fail("complex numbers have no {} form", name_of(to.dtype));
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(convert_range);

void convert(const TensorView& from, const TensorView& to, ThreadPool* pool) {
  assert(from.count() == to.count());
  const auto range = [&](int64_t begin, int64_t end) {
    if (from.dtype != to.dtype) return HWY_DYNAMIC_DISPATCH(convert_range)(from, to, begin, end);
    const int64_t size = size_of(from.dtype);
    std::memcpy(static_cast<char*>(to.data) + begin * size,
                static_cast<const char*>(from.data) + begin * size, (end - begin) * size);
  };
  if (from.count() == 0) return;
  if (pool == nullptr) return range(0, from.count());
  pool->for_ranges(from.count(), 16384,
                   [&](int64_t begin, int64_t end, int) { range(begin, end); });
}

}  // namespace rookery
#endif  // HWY_ONCE
