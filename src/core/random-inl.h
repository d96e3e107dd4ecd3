// Random numbers for SIMD code. Included once per SIMD target (Highway).
#if defined(ROOKERY_CORE_RANDOM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ROOKERY_CORE_RANDOM_INL_H_
#undef ROOKERY_CORE_RANDOM_INL_H_
#else
#define ROOKERY_CORE_RANDOM_INL_H_
#endif

#include <cstdint>

#include "core/random.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

namespace philox_words {

// A word in each 64-bit lane. Only the low half of a lane counts: that is what MulEven reads.
using Tag = hn::ScalableTag<uint64_t>;
using Words = hn::Vec<Tag>;

HWY_INLINE Words multiply(Words word, uint32_t constant) {
  const hn::ScalableTag<uint32_t> d;
  return hn::MulEven(hn::BitCast(d, word), hn::Set(d, constant));
}
HWY_INLINE Words high(Words product) { return hn::ShiftRight<32>(product); }
HWY_INLINE Words low(Words product) { return product; }
HWY_INLINE Words add(Words word, uint32_t constant) {
  return hn::Add(word, hn::Set(Tag(), uint64_t{constant}));
}
HWY_INLINE Words exclusive_or(Words a, Words b, Words c) { return hn::Xor(hn::Xor(a, b), c); }
#include "core/philox.inc"

}  // namespace philox_words

// How many words philox_blocks() stores.
HWY_INLINE int64_t philox_block_words() {
  return 4 * static_cast<int64_t>(hn::Lanes(philox_words::Tag()));
}
constexpr size_t kMostPhiloxBlockWords = 4 * HWY_MAX_BYTES / sizeof(uint64_t);

// The words of philox(seed, stream, index), philox(seed, stream, index + 1), ... in order, for as
// many indices as a vector holds. `words` is aligned as HWY_ALIGN says.
HWY_INLINE void philox_blocks(uint64_t seed, uint64_t stream, uint64_t index,
                              uint32_t* HWY_RESTRICT words) {
  const philox_words::Tag d;
  auto c0 = hn::Iota(d, index), c1 = hn::ShiftRight<32>(c0);
  auto c2 = hn::Set(d, stream), c3 = hn::Set(d, stream >> 32);
  philox_words::philox_rounds(hn::Set(d, seed), hn::Set(d, seed >> 32), c0, c1, c2, c3);
  const hn::Rebind<uint32_t, philox_words::Tag> half;
  hn::StoreInterleaved4(hn::TruncateTo(half, c0), hn::TruncateTo(half, c1),
                        hn::TruncateTo(half, c2), hn::TruncateTo(half, c3), half, words);
}

}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#endif  // toggle
