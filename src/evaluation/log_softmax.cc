#include "evaluation/log_softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "evaluation/log_softmax.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

LogSoftmax log_softmax_row(const float* z, int64_t count) {
  const float largest = largest_of(z, count);
  return {largest, std::log(sum_of_exponentials(z, count, largest, nullptr))};
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
