// Dropout on the CPU. Random numbers are drawn for several vectors of elements at once.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/dropout/dropout_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/random-inl.h"
#include "ops/dropout/dropout.h"
#include "ops/elementwise_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// The mask of neighbouring vectors of elements, asked for in order from a multiple of 4 on.
class Mask {
 public:
  explicit Mask(const DropoutForward& g)
      : seed_(g.seed),
        stream_(g.stream()),
        threshold_(g.threshold()),
        scale_(1 / (1 - g.probability)) {}

  // x / (1 - probability) where element i + lane is kept, else 0.
  HWY_INLINE FloatVector apply(int64_t i, FloatVector x) {
    if (first_ < 0 || i - first_ == philox_block_words()) {
      first_ = i;
      philox_blocks(seed_, stream_, static_cast<uint64_t>(i / 4), words_);
    }
    const FloatTag d;
    const hn::RebindToUnsigned<FloatTag> du;
    const auto dropped = hn::Lt(hn::Load(du, words_ + (i - first_)), hn::Set(du, threshold_));
    return hn::IfThenZeroElse(hn::RebindMask(d, dropped), hn::Mul(x, hn::Set(d, scale_)));
  }

 private:
  uint64_t seed_, stream_;
  uint32_t threshold_;
  float scale_;
  int64_t first_ = -1;  // the element of words_[0]
  HWY_ALIGN uint32_t words_[kMostPhiloxBlockWords];
};

void forward_range(const DropoutForward& g, int64_t begin, int64_t end) {
  Mask mask(g);
  const auto formula = [&](int64_t i, auto x, auto residual) {
    return hn::Add(mask.apply(i, x), residual);
  };
  map_elements(begin, end, g.y, formula, g.x, g.residual);
}

void backward_range(const DropoutBackward& g, int64_t begin, int64_t end) {
  Mask mask(g.forward);
  const auto formula = [&](int64_t i, auto dy) { return std::array{mask.apply(i, dy), dy}; };
  map_gradients(begin, end, std::array{g.dx, g.dresidual}, formula, g.dy);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
ROOKERY_ELEMENTWISE_CPU(dropout, DropoutForward, DropoutBackward)
#endif
