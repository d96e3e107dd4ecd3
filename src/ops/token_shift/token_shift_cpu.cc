// Token shift on the CPU: rows over threads, channels over SIMD lanes.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/token_shift/token_shift_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/token_shift/token_shift.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// One row; `previous` is null before a sequence that starts from nothing.
void forward_row(const TokenShiftForward& g, int64_t t, const float* previous) {
  const int64_t width = g.x.cols();
  const float* x = g.x.as<float>() + t * width;
  for_vectors(width, [&](int64_t c, int64_t n) {
    const auto now = load(x + c, n);
    const auto before = previous == nullptr ? hn::Zero(FloatTag()) : load(previous + c, n);
    const auto change = hn::Sub(now, before);
    for (int i = 0; i < g.count; ++i) {
      store(hn::MulAdd(load(g.mix[i].as<float>() + c, n), change, before),
            g.y[i].as<float>() + t * width + c, n);
    }
  });
}

// dx[t] = sum over i of m_i dy_i[t] + (1 - m_i) dy_i[t+1];  dm_i += dy_i[t] (x[t] - x[t-1]).
// `next`: whether t+1 belongs to the same sequence; `dlast`: gradient of the state left by t, or
// null.
void backward_row(const TokenShiftBackward& g, int64_t t, const float* previous, bool next,
                  const float* dlast, float* HWY_RESTRICT dmix) {
  const FloatTag d;
  const TokenShiftForward& f = g.forward;
  const int64_t width = f.x.cols();
  const float* x = f.x.as<float>() + t * width;
  for_vectors(width, [&](int64_t c, int64_t n) {
    const auto before = previous == nullptr ? hn::Zero(d) : load(previous + c, n);
    const auto change = hn::Sub(load(x + c, n), before);
    auto dx = dlast == nullptr ? hn::Zero(d) : load(dlast + c, n);
    for (int i = 0; i < f.count; ++i) {
      if (!g.dy[i]) continue;
      const float* dy = g.dy[i].as<float>() + t * width + c;
      const auto m = load(f.mix[i].as<float>() + c, n);
      const auto upstream = load(dy, n);
      dx = hn::MulAdd(m, upstream, dx);
      if (next) {
        const auto later = load(dy + width, n);
        dx = hn::Add(dx, hn::NegMulAdd(m, later, later));
      }
      float* sum = dmix + i * width + c;
      store(hn::MulAdd(upstream, change, load(sum, n)), sum, n);
    }
    if (g.dx) store_gradient(dx, g.dx.as<float>() + t * width + c, n, g.dx.accumulate);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_row);
HWY_EXPORT(backward_row);

namespace cpu {
namespace {

// Calls body(t, sequence) for the rows of [begin, end).
template <class Body>
void for_rows(const Sequences& sequences, int64_t begin, int64_t end, const Body& body) {
  int64_t s =
      std::upper_bound(sequences.offsets.host, sequences.offsets.host + sequences.count, begin) -
      sequences.offsets.host - 1;
  for (int64_t t = begin; t < end; ++t) {
    while (t >= sequences.offsets[s + 1]) ++s;
    body(t, s);
  }
}

// The row before t, or null.
const float* previous_row(const TokenShiftForward& g, int64_t t, int64_t s) {
  if (t > g.sequences.offsets[s]) return g.x.as<float>() + (t - 1) * g.x.cols();
  const int64_t slot = g.last_in ? g.sequences.slot_in[s] : -1;
  return slot < 0 ? nullptr : g.last_in.slot<float>(slot);
}

}  // namespace

void token_shift_forward(const TokenShiftForward& g, Context& ctx) {
  ctx.pool->for_ranges(g.x.rows(), 8, [&](int64_t begin, int64_t end, int) {
    for_rows(g.sequences, begin, end, [&](int64_t t, int64_t s) {
      HWY_DYNAMIC_DISPATCH(forward_row)(g, t, previous_row(g, t, s));
    });
  });
  // Only now: the state may be updated in place, and every first row has read it.
  if (!g.last_out) return;
  const int64_t width = g.x.cols();
  for (int64_t s = 0; s < g.sequences.count; ++s) {
    const int64_t slot = g.sequences.slot_out[s], end = g.sequences.offsets[s + 1];
    if (slot < 0) continue;
    const float* last = end > g.sequences.offsets[s] ? g.x.as<float>() + (end - 1) * width
                                                     : previous_row(g, end, s);
    float* out = g.last_out.slot<float>(slot);
    if (last == nullptr) {
      std::fill_n(out, width, 0.0f);
    } else if (last != out) {
      std::copy_n(last, width, out);
    }
  }
}

void token_shift_backward(const TokenShiftBackward& g, Context& ctx) {
  const TokenShiftForward& f = g.forward;
  const Sequences& sequences = f.sequences;
  const int64_t width = f.x.cols(), rows = f.x.rows(), ranges = ctx.threads();
  float* partial = g.partial_sums.as<float>();
  std::fill_n(partial, g.partial_sums.count(), 0.0f);
  ctx.pool->run(ranges, [&](int64_t range, int) {
    const int64_t begin = rows * range / ranges, end = rows * (range + 1) / ranges;
    if (begin == end) return;
    for_rows(sequences, begin, end, [&](int64_t t, int64_t s) {
      const bool next = t + 1 < sequences.offsets[s + 1];
      const int64_t slot = !next && g.dlast_out ? sequences.slot_out[s] : -1;
      HWY_DYNAMIC_DISPATCH(backward_row)
      (g, t, previous_row(f, t, s), next, slot < 0 ? nullptr : g.dlast_out.slot<float>(slot),
       partial + range * f.count * width);
    });
  });
  for (int i = 0; i < f.count; ++i) {
    if (!g.dmix[i]) continue;
    float* out = g.dmix[i].as<float>();
    for (int64_t c = 0; c < width; ++c) {
      float sum = g.dmix[i].accumulate ? out[c] : 0.0f;
      for (int64_t range = 0; range < ranges; ++range)
        sum += partial[(range * f.count + i) * width + c];
      out[c] = sum;
    }
  }
  if (!g.dlast_in) return;
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t slot = sequences.slot_in[s], t = sequences.offsets[s];
    if (slot < 0) continue;
    float* out = g.dlast_in.slot<float>(slot);
    std::fill_n(out, width, 0.0f);
    if (t == sequences.offsets[s + 1]) {  // no tokens: the state went through
      if (g.dlast_out && sequences.slot_out[s] >= 0) {
        std::copy_n(g.dlast_out.slot<float>(sequences.slot_out[s]), width, out);
      }
      continue;
    }
    for (int i = 0; i < f.count; ++i) {
      if (!g.dy[i]) continue;
      for (int64_t c = 0; c < width; ++c) {
        out[c] += (1.0f - f.mix[i].as<float>()[c]) * g.dy[i].as<float>()[t * width + c];
      }
    }
  }
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
