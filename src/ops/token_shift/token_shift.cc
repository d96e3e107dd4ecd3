#include "ops/token_shift/token_shift.h"

#include "ops/dispatch.h"
#include "ops/token_shift/token_shift_ref.h"

namespace rookery {

std::vector<Tensor> token_shift(Context& ctx, const Tensor& x, std::span<const Tensor> mixes,
                                const Sequences& sequences, const StateView& last_in,
                                const StateView& last_out) {
  check(!mixes.empty() && mixes.size() <= kMaxMixes && x.rows() == sequences.rows()) ||
      fail("token_shift: {} mixes of {} for {} tokens; 1 to {} are possible", mixes.size(),
           x.shape.to_string(), sequences.rows(), kMaxMixes);
  TokenShiftForward forward{.count = static_cast<int>(mixes.size()),
                            .x = x,
                            .sequences = sequences,
                            .last_in = last_in,
                            .last_out = last_out};
  std::vector<Tensor> outputs, inputs{x};
  for (int i = 0; i < forward.count; ++i) {
    check(mixes[i].count() == x.cols()) || fail("token_shift: mix {} is {}, x has {} channels", i,
                                                mixes[i].shape.to_string(), x.cols());
    outputs.push_back(ctx.make(x.shape, x.dtype));
    inputs.push_back(mixes[i]);
    forward.mix[i] = mixes[i];
    forward.y[i] = outputs[i];
  }
  ROOKERY_FORWARD(ctx, token_shift, forward);
  ctx.record("token_shift", inputs, outputs, [&ctx, forward, inputs, outputs] {
    const ArenaScope scope(*ctx.arena);
    TokenShiftBackward backward{.forward = forward};
    for (int i = 0; i < forward.count; ++i) backward.dy[i] = ctx.tape->gradient(outputs[i]);
    backward.dx = ctx.tape->gradient_out(inputs[0]);
    for (int i = 0; i < forward.count; ++i)
      backward.dmix[i] = ctx.tape->gradient_out(inputs[i + 1]);
    if (ctx.target() != Device::kCuda)
      backward.partial_sums = ctx.make({ctx.threads(), forward.count, forward.x.cols()});
    ROOKERY_BACKWARD(ctx, token_shift, backward);
  });
  return outputs;
}

}  // namespace rookery
