#include "evaluation/log_softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "evaluation/log_softmax.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// A sum of this many terms in [0, 1] is kept in float32 before it goes to float64.
constexpr int64_t kBlock = 256;

LogSoftmax log_softmax_row(const float* HWY_RESTRICT z, int64_t count) {
  const FloatTag d;
  const auto lowest = hn::Set(d, -3.0e38f);
  auto maximum = lowest;
  for_vectors(count, [&](int64_t i, int64_t n) {
    auto x = load(z + i, n);
    if (n < float_lanes()) x = hn::IfThenElse(hn::FirstN(d, n), x, lowest);
    maximum = hn::Max(maximum, x);
  });
  const float largest = max_lanes(maximum);
  const auto shift = hn::Set(d, largest);
  double total = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    auto sum = hn::Zero(d);
    for_vectors(std::min(kBlock, count - first), [&](int64_t i, int64_t n) {
      auto e = exponential(hn::Sub(load(z + first + i, n), shift));
      if (n < float_lanes()) e = hn::IfThenElseZero(hn::FirstN(d, n), e);
      sum = hn::Add(sum, e);
    });
    total += static_cast<double>(sum_lanes(sum));
  }
  return {largest, std::log(total)};
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(log_softmax_row);

LogSoftmax log_softmax(std::span<const float> logits) {
  return HWY_DYNAMIC_DISPATCH(log_softmax_row)(logits.data(), static_cast<int64_t>(logits.size()));
}

bool is_greedy(std::span<const float> logits, const LogSoftmax& row, int64_t token) {
  if (logits[token] != row.largest) return false;
  const auto end = logits.begin() + token;
  return std::find(logits.begin(), end, row.largest) == end;
}

}  // namespace rookery
#endif  // HWY_ONCE
