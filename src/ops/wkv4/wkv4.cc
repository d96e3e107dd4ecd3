#include "ops/wkv4/wkv4.h"

#include <algorithm>

#include "checking/checked_run.h"
#include "ops/dispatch.h"
#include "ops/wkv4/wkv4_ref.h"

namespace rookery {

int64_t wkv4_segment_count(const Sequences& sequences, Device device) {
  if (device == Device::kCuda) {
    return (sequences.rows() + kWkv4DeviceTile - 1) / kWkv4DeviceTile;
  }
  int64_t segments = 0;
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t length = sequences.offsets[s + 1] - sequences.offsets[s];
    segments += (length + kWkv4Segment - 1) / kWkv4Segment;
  }
  return segments;
}

double Wkv4Forward::exponent(std::string_view name) const {
  return name == "a" || name == "b" ? largest(elements(k)) : 1;
}

double Wkv4Backward::least(std::string_view name) const {
  if (name != "w" && name != "u") return 0;
  return scale_of(elements(dy)).rms * scale_of(elements(forward.v)).rms;
}

Tensor wkv4(Context& ctx, const Tensor& w, const Tensor& u, const Tensor& k, const Tensor& v,
            const Sequences& sequences, const Wkv4State& state) {
  const int64_t width = w.count();
  check(u.count() == width && k.cols() == width && v.shape == k.shape &&
        sequences.rows() == k.rows()) ||
      fail("wkv4: w {}, u {}, k {} and v {} do not fit {} tokens", w.shape.to_string(),
           u.shape.to_string(), k.shape.to_string(), v.shape.to_string(), sequences.rows());
  const Tensor y = ctx.make(k.shape, k.dtype);
  Wkv4Forward forward{w,           u,          k,          v,           sequences,
                      state.a_in,  state.b_in, state.p_in, state.a_out, state.b_out,
                      state.p_out, y,          {}};
  if (ctx.recording()) {
    forward.segment_states =
        ctx.make({wkv4_segment_count(sequences, ctx.target()), 3, width}, ctx.wide_dtype());
  }
  ROOKERY_FORWARD(ctx, wkv4, forward);
  ctx.record("wkv4", {w, u, k, v}, {y}, [&ctx, forward, w, u, k, v, y] {
    const TensorView dy = ctx.tape->gradient(y);
    if (!dy) return;
    const ArenaScope scope(*ctx.arena);
    Wkv4Backward backward{.forward = forward, .dy = dy};
    backward.dw = ctx.tape->gradient_out(w);
    backward.du = ctx.tape->gradient_out(u);
    backward.dk = ctx.tape->gradient_out(k);
    backward.dv = ctx.tape->gradient_out(v);
    if (ctx.target() != Device::kCuda) {
      backward.partial_sums = ctx.make({2 * ctx.threads(), 2, w.count()});
      backward.states = ctx.make({ctx.threads(), kWkv4Segment, 3, kWkv4Lanes});
    }
    ROOKERY_BACKWARD(ctx, wkv4, backward);
  });
  return y;
}

}  // namespace rookery
