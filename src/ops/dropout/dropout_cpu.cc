// Dropout on the CPU: blocks of four elements, which share one Philox counter, over threads and
// SIMD lanes.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/dropout/dropout_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>

#include "core/simd-inl.h"
#include "ops/dropout/dropout.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

using WordTag = hn::ScalableTag<uint32_t>;
using BlockTag = hn::ScalableTag<uint64_t>;

// philox() of core/random.h from block number `block` on, one per 64-bit lane. Stores 4 *
// Lanes(BlockTag) words in the order of the elements. Only the low half of a lane counts: that is
// what MulEven reads.
HWY_INLINE void draw(uint64_t seed, uint64_t stream, uint64_t block, uint32_t* numbers) {
  const BlockTag d;
  const WordTag words;
  auto c0 = hn::Iota(d, block), c1 = hn::ShiftRight<32>(c0);
  auto c2 = hn::Set(d, stream), c3 = hn::Set(d, stream >> 32);
  auto k0 = hn::Set(d, seed), k1 = hn::Set(d, seed >> 32);
  const auto m0 = hn::Set(words, 0xD2511F53u), m1 = hn::Set(words, 0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    const auto p0 = hn::MulEven(hn::BitCast(words, c0), m0);
    const auto p1 = hn::MulEven(hn::BitCast(words, c2), m1);
    c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), k0);
    c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), k1);
    c1 = p1;
    c3 = p0;
    k0 = hn::Add(k0, hn::Set(d, uint64_t{0x9E3779B9u}));
    k1 = hn::Add(k1, hn::Set(d, uint64_t{0xBB67AE85u}));
  }
  const hn::Rebind<uint32_t, BlockTag> half;
  hn::StoreInterleaved4(hn::TruncateTo(half, c0), hn::TruncateTo(half, c1),
                        hn::TruncateTo(half, c2), hn::TruncateTo(half, c3), half, numbers);
}

// body(i, n, keep) for the elements of blocks begin .. end - 1, as of for_vectors; keep is a mask.
template <class Body>
HWY_INLINE void for_masked_vectors(const DropoutForward& g, int64_t begin, int64_t end,
                                   const Body& body) {
  const FloatTag d;
  const WordTag words;
  const auto blocks = static_cast<int64_t>(hn::Lanes(BlockTag()));
  const int64_t last = std::min(4 * end, g.x.count());
  const auto threshold = hn::Set(words, g.threshold());
  HWY_ALIGN uint32_t numbers[4 * HWY_MAX_BYTES / sizeof(uint64_t)];
  for (int64_t block = begin; block < end; block += blocks) {
    draw(g.seed, g.stream(), block, numbers);
    const int64_t first = 4 * block, count = std::min(4 * blocks, last - first);
    for_vectors(count, [&](int64_t i, int64_t n) {
      const auto number = hn::Load(words, numbers + i);
      body(first + i, n, hn::Not(hn::RebindMask(d, hn::Lt(number, threshold))));
    });
  }
}

void forward_blocks(const DropoutForward& g, int64_t begin, int64_t end) {
  const FloatTag d;
  const auto scale = hn::Set(d, 1 / (1 - g.probability));
  const float* x = g.x.as<float>();
  const float* residual = g.residual.as<float>();
  float* y = g.y.as<float>();
  for_masked_vectors(g, begin, end, [&](int64_t i, int64_t n, auto keep) {
    const auto kept = hn::IfThenElseZero(keep, hn::Mul(load(x + i, n), scale));
    store(residual == nullptr ? kept : hn::Add(kept, load(residual + i, n)), y + i, n);
  });
}

void backward_blocks(const DropoutBackward& g, int64_t begin, int64_t end) {
  const FloatTag d;
  const auto scale = hn::Set(d, 1 / (1 - g.forward.probability));
  const float* dy = g.dy.as<float>();
  for_masked_vectors(g.forward, begin, end, [&](int64_t i, int64_t n, auto keep) {
    const auto upstream = load(dy + i, n);
    if (g.dx) {
      store_gradient(hn::IfThenElseZero(keep, hn::Mul(upstream, scale)), g.dx.as<float>() + i, n,
                     g.dx.accumulate);
    }
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
HWY_EXPORT(forward_blocks);
HWY_EXPORT(backward_blocks);

namespace cpu {

void dropout_forward(const DropoutForward& g, Context& ctx) {
  ctx.pool->for_ranges((g.x.count() + 3) / 4, 512, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_blocks)(g, begin, end);
  });
}

void dropout_backward(const DropoutBackward& g, Context& ctx) {
  ctx.pool->for_ranges((g.dy.count() + 3) / 4, 512, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_blocks)(g, begin, end);
  });
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
