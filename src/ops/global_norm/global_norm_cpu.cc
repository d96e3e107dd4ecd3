// The global norm on the CPU. Squares in double: memory is the limit anyway, a sum of a billion
// floats would lose digits, and the square of a gradient of 1e-23 or 1e20 is no float.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/global_norm/global_norm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "core/simd-inl.h"
#include "ops/global_norm/global_norm.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

double sum_of_squares(const float* x, int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto add_square = [&](const float* p, auto sum) {
    const auto v = hn::PromoteTo(d, hn::LoadU(half, p));
    return hn::MulAdd(v, v, sum);
  };
  // Four sums, or each addition would wait for the one before.
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    sum0 = add_square(x + i, sum0);
    sum1 = add_square(x + i + lanes, sum1);
    sum2 = add_square(x + i + 2 * lanes, sum2);
    sum3 = add_square(x + i + 3 * lanes, sum3);
  }
  const auto sum = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += static_cast<double>(x[i]) * x[i];
  return total;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(sum_of_squares);

namespace cpu {
namespace {

// Sums of chunks begin .. end - 1.
void sum_chunks(const GlobalNormForward& g, int64_t begin, int64_t end) {
  auto tensor = g.gradients.begin();
  int64_t offset = begin * GlobalNormForward::kChunk;  // in *tensor
  for (; tensor != g.gradients.end() && offset >= tensor->count(); ++tensor) {
    offset -= tensor->count();
  }
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    double sum = 0;
    for (int64_t left = GlobalNormForward::kChunk; left > 0 && tensor != g.gradients.end();) {
      const int64_t count = std::min(left, tensor->count() - offset);
      sum += HWY_DYNAMIC_DISPATCH(sum_of_squares)(tensor->as<float>() + offset, count);
      left -= count;
      offset += count;
      if (offset == tensor->count()) {
        ++tensor;
        offset = 0;
      }
    }
    g.partial_sums.as<double>()[chunk] = sum;
  }
}

}  // namespace

void global_norm_forward(const GlobalNormForward& g, Context& ctx) {
  const int64_t chunks = g.partial_sums.count();
  ctx.pool->for_ranges(chunks, 1,
                       [&](int64_t begin, int64_t end, int) { sum_chunks(g, begin, end); });
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += g.partial_sums.as<double>()[chunk];
  g.norm.as<double>()[0] = std::sqrt(sum);
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
