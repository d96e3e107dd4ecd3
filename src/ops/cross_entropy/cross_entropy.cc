#include "ops/cross_entropy/cross_entropy.h"

#include "core/dispatch.h"
#include "ops/cross_entropy/cross_entropy_ref.h"

namespace rookery {
namespace {

// Logits that exist at one time. The gradient of the head is read and written once a chunk: larger
// chunks cost memory, smaller ones bandwidth.
constexpr int64_t kLogitBytes = int64_t{64} << 20;

}  // namespace

CrossEntropyResult cross_entropy(Context& ctx, const Tensor& x, const Weight& head,
                                 const int32_t* targets, const CrossEntropyOptions& options) {
  const TensorView& weight = head.product();
  const int64_t rows = x.rows(), vocabulary = weight.rows();
  check(x.cols() == weight.cols(), "cross_entropy: x {} does not fit the head {}",
        x.shape.to_string(), weight.shape.to_string());
  if (ctx.device != Device::kMeta) {
    for (int64_t t = 0; t < rows; ++t) {
      check(targets[t] < vocabulary,
            "target token {} at position {} is not below the vocabulary's size {}", targets[t], t,
            vocabulary);
    }
  }
  CrossEntropyForward forward{x, weight, targets, options.scale, options.l2wrap};
  forward.losses = ctx.make({rows});
  forward.objective = ctx.make({1});
  const ArenaScope scope(*ctx.arena);
  const int64_t chunk = std::clamp<int64_t>(kLogitBytes / (4 * std::max<int64_t>(vocabulary, 1)),
                                            16, std::max<int64_t>(rows, 16));
  forward.logits = ctx.make({chunk, vocabulary});
  forward.low_x = low_copy(ctx, {nullptr, ctx.dtype, {chunk, x.cols()}}, weight);
  forward.low_logits = low_copy(ctx, forward.logits, weight);
  if (!ctx.recording()) {
    ROOKERY_FORWARD(ctx, cross_entropy, forward);
    return {forward.losses, forward.objective};
  }
  const TensorView one = ctx.make({1});
  if (ctx.device != Device::kMeta) *one.as<float>() = 1;
  const CrossEntropyBackward backward{forward, one, ctx.tape->gradient_out(x),
                                      ctx.tape->gradient_out(head.value)};
  ROOKERY_BACKWARD(ctx, cross_entropy, backward);
  ctx.record("cross_entropy", {x, head.value}, {}, [] {});  // its gradients are there already
  return {forward.losses, forward.objective};
}

}  // namespace rookery
