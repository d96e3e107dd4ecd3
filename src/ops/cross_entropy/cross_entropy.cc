#include "ops/cross_entropy/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "checking/checked_run.h"
#include "ops/dispatch.h"
#include "ops/cross_entropy/cross_entropy_ref.h"

namespace rookery {
namespace {

// Logits that exist at one time. The gradient of the head is read and written once a chunk: larger
// chunks cost memory, smaller ones bandwidth.
constexpr int64_t kLogitBytes = int64_t{64} << 20;
// A GPU has the memory, and wants large products.
constexpr int64_t kDeviceLogitBytes = int64_t{1} << 30;

}  // namespace

double CrossEntropyForward::magnitude(std::string_view name) const {
  const std::vector<double> w = elements(weight), rows = elements(x);
  const int64_t width = weight.cols();
  double logit = 0;
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t j = 0; j < weight.rows(); ++j) {
      double z = 0;
      for (int64_t c = 0; c < width; ++c) z += rows[t * width + c] * w[j * width + c];
      logit = std::max(logit, std::abs(z));
    }
  }
  if (name == "losses") return logit;
  // Sums over the rows, whose errors are independent.
  const double sum = std::sqrt(static_cast<double>(x.rows())) * logit;
  return name == "objective" ? scale * sum * (1 + l2wrap * logit) : sum;
}

double CrossEntropyBackward::magnitude(std::string_view name) const {
  const double dlogit = std::abs(forward.scale * element(dobjective, 0));
  if (name == "x") return dlogit * scale_of(elements(forward.weight)).rms;
  // A row of dweight adds up as many rows of x as have its token as their target.
  std::map<int32_t, double> occurrences;
  double most = 0;
  for (int64_t t = 0; t < forward.x.rows(); ++t) {
    if (forward.targets[t] >= 0) most = std::max(most, ++occurrences[forward.targets[t]]);
  }
  return dlogit * std::sqrt(most) * scale_of(elements(forward.x)).rms;
}

CrossEntropyResult cross_entropy(Context& ctx, const Tensor& x, const Weight& head,
                                 Mirrored<int32_t> targets, const CrossEntropyOptions& options) {
  const TensorView& weight = head.product();
  const int64_t rows = x.rows(), vocabulary = weight.rows();
  check(x.cols() == weight.cols()) || fail("cross_entropy: x {} does not fit the head {}",
                                           x.shape.to_string(), weight.shape.to_string());
  if (ctx.device != Device::kMeta) {
    for (int64_t t = 0; t < rows; ++t) {
      check(targets[t] < vocabulary) ||
          fail("target token {} at position {} is not below the vocabulary's size {}", targets[t],
               t, vocabulary);
    }
  }
  CrossEntropyForward forward{x, weight, targets, options.scale, options.l2wrap};
  forward.losses = ctx.make({rows}, ctx.wide_dtype());
  forward.objective = ctx.make({1}, ctx.wide_dtype());
  forward.loss_sum = ctx.make({1}, ctx.dtype == DType::kC128 ? DType::kC128 : DType::kF64);
  const ArenaScope scope(*ctx.arena);
  const bool padded = ctx.target() == Device::kCuda;
  const int64_t stride = padded ? padded_rows(vocabulary) : vocabulary;
  const int64_t row_bytes = std::max<int64_t>(stride * size_of(ctx.dtype), 1);
  const int64_t chunk = std::clamp<int64_t>((padded ? kDeviceLogitBytes : kLogitBytes) / row_bytes,
                                            16, std::max<int64_t>(rows, 16));
  forward.logits = ctx.make({chunk, stride});
  forward.padded = head.padded;
  forward.low_x = low_copy(ctx, {nullptr, ctx.dtype, {chunk, x.cols()}}, weight);
  forward.low_logits = low_copy(ctx, forward.logits, weight);
  if (!ctx.recording()) {
    ROOKERY_FORWARD(ctx, cross_entropy, forward);
    return {forward.losses, forward.objective, forward.loss_sum};
  }
  TensorView upstream = options.objective_gradient;
  if (!upstream) {
    static constexpr float kOne = 1;
    upstream = ctx.make({1}, DType::kF32);
    ctx.copy(upstream.data, &kOne, sizeof kOne);
  }
  const CrossEntropyBackward backward{forward, upstream, ctx.tape->gradient_out(x),
                                      ctx.tape->gradient_out(head.value)};
  ROOKERY_BACKWARD(ctx, cross_entropy, backward);
  ctx.record("cross_entropy", {x, head.value}, {}, [] {});  // its gradients are there already
  return {forward.losses, forward.objective, forward.loss_sum};
}

}  // namespace rookery
