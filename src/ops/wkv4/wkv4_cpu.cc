// WKV-4 on the CPU, parallel over channels and over time.
//
// Time is cut into segments, and the segments of all sequences, in order, into ranges. A task is
// one range of one block of channels. When there are blocks enough for the threads there is one
// range, and a task walks through every sequence token by token. Otherwise (one long sequence, many
// cores) there are several: each first finds what it adds to the state, starting from nothing; the
// carried states follow from these by
//   (a, b, p) after n tokens = e^(n w) (a, b, p) before + what the tokens add,
// and then every range runs from its true state. The backward does the same from the end.
//
// Of two exponentials e^(x - max(x, y)), e^(y - max(x, y)) one is always 1, so one call serves
// both.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/wkv4/wkv4_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "ops/wkv4/wkv4.h"

#ifndef ROOKERY_WKV4_PLAN_H_
#define ROOKERY_WKV4_PLAN_H_
namespace rookery {

struct Wkv4Segment {
  int64_t sequence, begin, end;
  bool first, last;  // of its sequence
};

struct Wkv4Plan {
  std::vector<Wkv4Segment> segments;
  std::vector<int64_t> range_begin;  // [ranges + 1], indices of segments
  // A state or its gradient passed from range to range, [ranges, 3, A]; empty with one range.
  std::vector<float> carried;
  // With several ranges the final states, [sequences, 3, A], wait here until every range has read
  // the initial ones: a state may be updated in place.
  std::vector<float> final_states;

  int64_t ranges() const { return static_cast<int64_t>(range_begin.size()) - 1; }
  // Whether range r starts inside a sequence.
  bool continues(int64_t r) const {
    return r > 0 && r < ranges() && !segments[range_begin[r]].first;
  }
};

}  // namespace rookery
#endif  // ROOKERY_WKV4_PLAN_H_

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

using V = FloatVector;
static_assert(HWY_MAX_BYTES / sizeof(float) <= kWkv4Lanes);

// e^(x - max(x, y)) and e^(y - max(x, y)).
struct ScaledPair {
  V maximum, x, y;
};
HWY_INLINE ScaledPair scale_pair(V x, V y) {
  const FloatTag d;
  const auto one = hn::Set(d, 1.0f);
  const auto smaller = exponential(hn::Neg(hn::Abs(hn::Sub(x, y))));
  const auto x_larger = hn::Ge(x, y);
  return {hn::Max(x, y), hn::IfThenElse(x_larger, one, smaller),
          hn::IfThenElse(x_larger, smaller, one)};
}

// (a, b) e^p: a state, or the gradient of one.
struct Scaled {
  V a, b, p;
};
HWY_INLINE Scaled nothing() {
  const FloatTag d;
  return {hn::Zero(d), hn::Zero(d), hn::Set(d, static_cast<float>(kWkv4EmptyExponent))};
}
HWY_INLINE Scaled load_scaled(const float* p, int64_t step, int64_t n) {
  return {load(p, n), load(p + step, n), load(p + 2 * step, n)};
}
HWY_INLINE void store_scaled(const Scaled& s, float* p, int64_t step, int64_t n) {
  store(s.a, p, n);
  store(s.b, p + step, n);
  store(s.p, p + 2 * step, n);
}
// e^decay x + y.
HWY_INLINE Scaled combine(const Scaled& x, V decay, const Scaled& y) {
  const auto e = scale_pair(hn::Add(x.p, decay), y.p);
  return {hn::MulAdd(e.x, x.a, hn::Mul(e.y, y.a)), hn::MulAdd(e.x, x.b, hn::Mul(e.y, y.b)),
          e.maximum};
}

HWY_INLINE Scaled advance(const Scaled& s, V w, V k, V v) {
  const auto e = scale_pair(hn::Add(s.p, w), k);
  return {hn::MulAdd(e.x, s.a, hn::Mul(e.y, v)), hn::MulAdd(e.x, s.b, e.y), e.maximum};
}

HWY_INLINE Scaled state_before(const Wkv4Forward& g, int64_t sequence, int64_t c, int64_t n) {
  const int64_t slot = g.a_in ? g.sequences.slot_in[sequence] : -1;
  if (slot < 0) return nothing();
  return {load(g.a_in.slot<float>(slot) + c, n), load(g.b_in.slot<float>(slot) + c, n),
          load(g.p_in.slot<float>(slot) + c, n)};
}

// kVectors vectors of channels from c on, `n` channels left. The state stays in registers.
template <int kVectors>
HWY_INLINE void forward_block(const Wkv4Forward& g, Wkv4Plan& plan, int64_t range, int64_t c,
                              int64_t n) {
  const int64_t lanes = float_lanes(), width = g.w.count();
  const float *k = g.k.as<float>() + c, *v = g.v.as<float>() + c;
  float* y = g.y.as<float>() + c;
  V w[kVectors], u[kVectors];
  Scaled state[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    w[j] = load(g.w.as<float>() + c + j * lanes, n - j * lanes);
    u[j] = load(g.u.as<float>() + c + j * lanes, n - j * lanes);
    state[j] = nothing();
    if (plan.continues(range)) {
      state[j] = load_scaled(plan.carried.data() + range * 3 * width + c + j * lanes, width,
                             n - j * lanes);
    }
  }
  for (int64_t i = plan.range_begin[range]; i < plan.range_begin[range + 1]; ++i) {
    const Wkv4Segment& segment = plan.segments[i];
    for (int j = 0; j < kVectors; ++j) {
      const int64_t at = j * lanes, left = n - at;
      if (segment.first) state[j] = state_before(g, segment.sequence, c + at, left);
      if (g.segment_states) {
        store_scaled(state[j], g.segment_states.as<float>() + i * 3 * width + c + at, width, left);
      }
    }
    for (int64_t t = segment.begin; t < segment.end; ++t) {
      HWY_UNROLL(4)
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = t * width + j * lanes, left = n - j * lanes;
        const auto kt = load(k + at, left), vt = load(v + at, left);
        const auto e = scale_pair(state[j].p, hn::Add(u[j], kt));
        const auto numerator = hn::MulAdd(e.x, state[j].a, hn::Mul(e.y, vt));
        const auto denominator = hn::MulAdd(e.x, state[j].b, e.y);
        store(hn::Div(numerator, denominator), y + at, left);
        state[j] = advance(state[j], w[j], kt, vt);
      }
    }
    if (!segment.last || !g.a_out) continue;
    const int64_t slot = g.sequences.slot_out[segment.sequence];
    if (slot < 0) continue;
    for (int j = 0; j < kVectors; ++j) {
      const int64_t at = c + j * lanes, left = n - j * lanes;
      if (plan.ranges() > 1) {
        store_scaled(state[j], plan.final_states.data() + segment.sequence * 3 * width + at, width,
                     left);
        continue;
      }
      store(state[j].a, g.a_out.slot<float>(slot) + at, left);
      store(state[j].b, g.b_out.slot<float>(slot) + at, left);
      store(state[j].p, g.p_out.slot<float>(slot) + at, left);
    }
  }
}

// The state at the end of a range, or what its tokens add to the state before it.
HWY_INLINE void forward_carry(const Wkv4Forward& g, Wkv4Plan& plan, int64_t range, int64_t c,
                              int64_t n) {
  const int64_t width = g.w.count();
  const auto w = load(g.w.as<float>() + c, n);
  int64_t i = plan.range_begin[range + 1] - 1;
  while (i > plan.range_begin[range] && !plan.segments[i].first) --i;
  Scaled state =
      plan.segments[i].first ? state_before(g, plan.segments[i].sequence, c, n) : nothing();
  for (; i < plan.range_begin[range + 1]; ++i) {
    for (int64_t t = plan.segments[i].begin; t < plan.segments[i].end; ++t) {
      state = advance(state, w, load(g.k.as<float>() + t * width + c, n),
                      load(g.v.as<float>() + t * width + c, n));
    }
  }
  store_scaled(state, plan.carried.data() + (range + 1) * 3 * width + c, width, n);
}

// What one token's backward works with.
struct TokenBackward {
  V k, v, y, g, now, q;
};
HWY_INLINE TokenBackward token_backward(const Scaled& before, V u, V k, V v, V dy) {
  const FloatTag d;
  const auto e = scale_pair(before.p, hn::Add(u, k));
  const auto inverse = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(e.x, before.b, e.y));
  const auto y = hn::Mul(hn::MulAdd(e.x, before.a, hn::Mul(e.y, v)), inverse);
  return {k, v, y, hn::Mul(dy, inverse), e.y, e.maximum};
}
// The gradient of the state before this token: e^w that of the state after it, and this output's
// share.
HWY_INLINE Scaled retreat(const Scaled& gradient, V w, const TokenBackward& t) {
  const auto e = scale_pair(hn::Add(gradient.p, w), hn::Neg(t.q));
  const auto share = hn::Mul(e.y, t.g);
  return {hn::MulAdd(e.x, gradient.a, share), hn::NegMulAdd(share, t.y, hn::Mul(e.x, gradient.b)),
          e.maximum};
}

// The gradient of a sequence's final state, as (da, db) e^(-p): a and b are given in the gauge p.
HWY_INLINE Scaled gradient_after(const Wkv4Backward& g, int64_t sequence, int64_t c, int64_t n) {
  const int64_t slot = g.da_out ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot < 0) return nothing();
  return {load(g.da_out.slot<float>(slot) + c, n), load(g.db_out.slot<float>(slot) + c, n),
          hn::Neg(load(g.forward.p_out.slot<float>(slot) + c, n))};
}

// States before each token of a segment, into `states` [tokens, 3, lanes].
HWY_INLINE void states_inside(const Wkv4Forward& f, const Wkv4Plan& plan, int64_t i, int64_t c,
                              int64_t n, float* HWY_RESTRICT states) {
  const int64_t width = f.w.count(), lanes = float_lanes();
  const auto w = load(f.w.as<float>() + c, n);
  const Wkv4Segment& segment = plan.segments[i];
  Scaled state = load_scaled(f.segment_states.as<float>() + i * 3 * width + c, width, n);
  for (int64_t t = segment.begin; t < segment.end; ++t) {
    store_scaled(state, states + (t - segment.begin) * 3 * lanes, lanes, lanes);
    state = advance(state, w, load(f.k.as<float>() + t * width + c, n),
                    load(f.v.as<float>() + t * width + c, n));
  }
}

// One vector of channels from c on. partial: this range's shares of dw [A] and du [A].
HWY_INLINE void backward_vector(const Wkv4Backward& g, const Wkv4Plan& plan, int64_t range,
                                int64_t c, int64_t n, float* HWY_RESTRICT states,
                                float* HWY_RESTRICT partial) {
  const FloatTag d;
  const Wkv4Forward& f = g.forward;
  const int64_t width = f.w.count(), lanes = float_lanes();
  const auto w = load(f.w.as<float>() + c, n), u = load(f.u.as<float>() + c, n);
  auto dw = hn::Zero(d), du = hn::Zero(d);
  Scaled gradient = nothing();
  if (plan.continues(range + 1)) {
    gradient = load_scaled(plan.carried.data() + range * 3 * width + c, width, n);
  }
  for (int64_t i = plan.range_begin[range + 1] - 1; i >= plan.range_begin[range]; --i) {
    const Wkv4Segment& segment = plan.segments[i];
    if (segment.last) gradient = gradient_after(g, segment.sequence, c, n);
    states_inside(f, plan, i, c, n, states);
    for (int64_t t = segment.end - 1; t >= segment.begin; --t) {
      const int64_t at = t * width + c;
      const Scaled before = load_scaled(states + (t - segment.begin) * 3 * lanes, lanes, lanes);
      const auto token =
          token_backward(before, u, load(f.k.as<float>() + at, n), load(f.v.as<float>() + at, n),
                         load(g.dy.as<float>() + at, n));
      // Through this output.
      const auto direct = hn::Mul(token.g, token.now);
      const auto direct_k = hn::Mul(direct, hn::Sub(token.v, token.y));
      du = hn::Add(du, direct_k);
      // Through the state after this token. Both exponents are at most 0: the gradient's p is minus
      // a later q, which this token's k and p, decayed, do not exceed.
      const auto stored = exponential(hn::Add(token.k, gradient.p));
      const auto dk = hn::MulAdd(stored, hn::MulAdd(gradient.a, token.v, gradient.b), direct_k);
      const auto dv = hn::MulAdd(stored, gradient.a, direct);
      const auto kept = exponential(hn::Add(hn::Add(before.p, w), gradient.p));
      dw = hn::MulAdd(kept, hn::MulAdd(before.a, gradient.a, hn::Mul(before.b, gradient.b)), dw);
      if (g.dk) store_gradient(dk, g.dk.as<float>() + at, n, g.dk.accumulate);
      if (g.dv) store_gradient(dv, g.dv.as<float>() + at, n, g.dv.accumulate);
      gradient = retreat(gradient, w, token);
    }
    const int64_t slot = segment.first && g.da_in ? f.sequences.slot_in[segment.sequence] : -1;
    if (slot >= 0) {
      const auto scale = exponential(hn::Add(gradient.p, load(f.p_in.slot<float>(slot) + c, n)));
      store(hn::Mul(gradient.a, scale), g.da_in.slot<float>(slot) + c, n);
      store(hn::Mul(gradient.b, scale), g.db_in.slot<float>(slot) + c, n);
    }
  }
  store(dw, partial + c, n);
  store(du, partial + width + c, n);
}

// The gradient of the state at the start of a range, or what its tokens add to that at its end.
HWY_INLINE void backward_carry(const Wkv4Backward& g, Wkv4Plan& plan, int64_t range, int64_t c,
                               int64_t n, float* HWY_RESTRICT states) {
  const Wkv4Forward& f = g.forward;
  const int64_t width = f.w.count(), lanes = float_lanes();
  const auto w = load(f.w.as<float>() + c, n), u = load(f.u.as<float>() + c, n);
  int64_t i = plan.range_begin[range];
  while (i + 1 < plan.range_begin[range + 1] && !plan.segments[i].last) ++i;
  Scaled gradient =
      plan.segments[i].last ? gradient_after(g, plan.segments[i].sequence, c, n) : nothing();
  for (; i >= plan.range_begin[range]; --i) {
    const Wkv4Segment& segment = plan.segments[i];
    states_inside(f, plan, i, c, n, states);
    for (int64_t t = segment.end - 1; t >= segment.begin; --t) {
      const int64_t at = t * width + c;
      const Scaled before = load_scaled(states + (t - segment.begin) * 3 * lanes, lanes, lanes);
      gradient =
          retreat(gradient, w,
                  token_backward(before, u, load(f.k.as<float>() + at, n),
                                 load(f.v.as<float>() + at, n), load(g.dy.as<float>() + at, n)));
    }
  }
  store_scaled(gradient, plan.carried.data() + (range - 1) * 3 * width + c, width, n);
}

// carried[to] = e^(tokens w) carried[from] + carried[to].
void combine_carried(const Wkv4Forward& f, Wkv4Plan& plan, int64_t from, int64_t to,
                     int64_t tokens) {
  const FloatTag d;
  const int64_t width = f.w.count();
  for_vectors(width, [&](int64_t c, int64_t n) {
    const auto decay =
        hn::Mul(load(f.w.as<float>() + c, n), hn::Set(d, static_cast<float>(tokens)));
    float* target = plan.carried.data() + to * 3 * width + c;
    const Scaled before = load_scaled(plan.carried.data() + from * 3 * width + c, width, n);
    store_scaled(combine(before, decay, load_scaled(target, width, n)), target, width, n);
  });
}

void forward_channels(const Wkv4Forward& g, Wkv4Plan& plan, int64_t range, int64_t begin,
                      int64_t end) {
  constexpr int kVectors = 4;
  const int64_t lanes = float_lanes();
  int64_t c = begin;
  for (; c + kVectors * lanes <= end; c += kVectors * lanes) {
    forward_block<kVectors>(g, plan, range, c, end - c);
  }
  for (; c < end; c += lanes) forward_block<1>(g, plan, range, c, end - c);
}
void forward_carry_channels(const Wkv4Forward& g, Wkv4Plan& plan, int64_t range, int64_t begin,
                            int64_t end) {
  for (int64_t c = begin; c < end; c += float_lanes()) forward_carry(g, plan, range, c, end - c);
}
void backward_channels(const Wkv4Backward& g, const Wkv4Plan& plan, int64_t range, int64_t begin,
                       int64_t end, float* states, float* partial) {
  for (int64_t c = begin; c < end; c += float_lanes()) {
    backward_vector(g, plan, range, c, end - c, states, partial);
  }
}
void backward_carry_channels(const Wkv4Backward& g, Wkv4Plan& plan, int64_t range, int64_t begin,
                             int64_t end, float* states) {
  for (int64_t c = begin; c < end; c += float_lanes()) {
    backward_carry(g, plan, range, c, end - c, states);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_channels);
HWY_EXPORT(forward_carry_channels);
HWY_EXPORT(backward_channels);
HWY_EXPORT(backward_carry_channels);
HWY_EXPORT(combine_carried);

namespace cpu {
namespace {

int64_t blocks_of(int64_t width) { return (width + kWkv4Block - 1) / kWkv4Block; }

// The segments, and as many ranges as the threads need beyond the blocks of channels.
Wkv4Plan make_plan(const Wkv4Forward& g, const Context& ctx) {
  Wkv4Plan plan;
  const Sequences& sequences = g.sequences;
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t begin = sequences.offsets[s], end = sequences.offsets[s + 1];
    for (int64_t t = begin; t < end; t += kWkv4Segment) {
      const int64_t stop = std::min(t + kWkv4Segment, end);
      plan.segments.push_back({s, t, stop, t == begin, stop == end});
    }
  }
  const int64_t segments = static_cast<int64_t>(plan.segments.size());
  const int64_t blocks = blocks_of(g.w.count());
  int64_t ranges = 1;
  if (!ctx.deterministic && blocks < 2 * ctx.threads()) {
    ranges = std::clamp<int64_t>((2 * ctx.threads() + blocks - 1) / blocks, 1,
                                 std::max<int64_t>(segments, 1));
  }
  // Cut by rows, at borders of segments.
  plan.range_begin.push_back(0);
  for (int64_t i = 0; i < segments; ++i) {
    const int64_t cut = static_cast<int64_t>(plan.range_begin.size());
    if (cut < ranges && plan.segments[i].begin >= sequences.rows() * cut / ranges &&
        i > plan.range_begin.back()) {
      plan.range_begin.push_back(i);
    }
  }
  plan.range_begin.push_back(segments);
  if (plan.ranges() > 1) plan.carried.assign(plan.ranges() * 3 * g.w.count(), 0.0f);
  return plan;
}

// body(range, begin, end, worker) for each range in [first, last) and block of channels; a small
// job stays on this thread.
template <class Body>
void for_tasks(Context& ctx, const Wkv4Forward& g, int64_t first, int64_t last, const Body& body) {
  const int64_t width = g.w.count(), blocks = blocks_of(width);
  const auto task = [&](int64_t i, int worker) {
    const int64_t block = i % blocks;
    body(first + i / blocks, block * kWkv4Block, std::min((block + 1) * kWkv4Block, width), worker);
  };
  const int64_t tasks = (last - first) * blocks;
  if (g.k.count() <= 4096) {
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
  } else {
    ctx.pool->run(tasks, task);
  }
}

int64_t rows_in_leading_sequence(const Wkv4Plan& plan, int64_t range) {
  int64_t i = plan.range_begin[range];
  const int64_t sequence = plan.segments[i].sequence;
  int64_t rows = 0;
  for (; i < plan.range_begin[range + 1] && plan.segments[i].sequence == sequence; ++i) {
    rows += plan.segments[i].end - plan.segments[i].begin;
  }
  return rows;
}

// Whether a range lies inside one sequence that began before it and goes on after it.
bool passes_through(const Wkv4Plan& plan, int64_t range) {
  return plan.continues(range) && plan.continues(range + 1) &&
         plan.segments[plan.range_begin[range]].sequence ==
             plan.segments[plan.range_begin[range + 1]].sequence;
}

// A sequence of no tokens leaves its state as it was.
void pass_empty_sequences(const Wkv4Forward& g) {
  if (!g.a_out) return;
  for (int64_t s = 0; s < g.sequences.count; ++s) {
    if (g.sequences.offsets[s] != g.sequences.offsets[s + 1] || g.sequences.slot_out[s] < 0)
      continue;
    const int64_t in = g.a_in ? g.sequences.slot_in[s] : -1, out = g.sequences.slot_out[s];
    const auto pass = [&](const StateView& from, const StateView& to, float empty) {
      float* target = to.slot<float>(out);
      if (in < 0) {
        std::fill_n(target, to.width, empty);
      } else if (target != from.slot<float>(in)) {
        std::copy_n(from.slot<float>(in), to.width, target);
      }
    };
    pass(g.a_in, g.a_out, 0);
    pass(g.b_in, g.b_out, 0);
    pass(g.p_in, g.p_out, static_cast<float>(kWkv4EmptyExponent));
  }
}

}  // namespace

void wkv4_forward(const Wkv4Forward& g, Context& ctx) {
  Wkv4Plan plan = make_plan(g, ctx);
  if (plan.ranges() > 1) {
    if (g.a_out) plan.final_states.resize(g.sequences.count * 3 * g.w.count());
    for_tasks(ctx, g, 0, plan.ranges() - 1, [&](int64_t range, int64_t begin, int64_t end, int) {
      if (plan.continues(range + 1))
        HWY_DYNAMIC_DISPATCH(forward_carry_channels)(g, plan, range, begin, end);
    });
    for (int64_t range = 1; range + 1 < plan.ranges(); ++range) {
      if (!passes_through(plan, range)) continue;
      HWY_DYNAMIC_DISPATCH(combine_carried)
      (g, plan, range, range + 1, rows_in_leading_sequence(plan, range));
    }
  }
  for_tasks(ctx, g, 0, plan.ranges(), [&](int64_t range, int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(forward_channels)(g, plan, range, begin, end);
  });
  if (plan.ranges() > 1 && g.a_out) {
    const int64_t width = g.w.count();
    for (const Wkv4Segment& segment : plan.segments) {
      const int64_t slot = segment.last ? g.sequences.slot_out[segment.sequence] : -1;
      if (slot < 0) continue;
      const float* state = plan.final_states.data() + segment.sequence * 3 * width;
      std::copy_n(state, width, g.a_out.slot<float>(slot));
      std::copy_n(state + width, width, g.b_out.slot<float>(slot));
      std::copy_n(state + 2 * width, width, g.p_out.slot<float>(slot));
    }
  }
  pass_empty_sequences(g);
}

void wkv4_backward(const Wkv4Backward& g, Context& ctx) {
  const Wkv4Forward& f = g.forward;
  const int64_t width = f.w.count();
  Wkv4Plan plan = make_plan(f, ctx);
  const auto states_of = [&](int worker) {
    return g.states.as<float>() + worker * kWkv4Segment * 3 * kWkv4Lanes;
  };
  if (plan.ranges() > 1) {
    for_tasks(ctx, f, 1, plan.ranges(), [&](int64_t range, int64_t begin, int64_t end, int worker) {
      if (!plan.continues(range)) return;
      HWY_DYNAMIC_DISPATCH(backward_carry_channels)(g, plan, range, begin, end, states_of(worker));
    });
    for (int64_t range = plan.ranges() - 2; range >= 1; --range) {
      if (!passes_through(plan, range)) continue;
      HWY_DYNAMIC_DISPATCH(combine_carried)
      (f, plan, range, range - 1, rows_in_leading_sequence(plan, range));
    }
  }
  assert(plan.ranges() <= g.partial_sums.rows());
  for_tasks(ctx, f, 0, plan.ranges(), [&](int64_t range, int64_t begin, int64_t end, int worker) {
    HWY_DYNAMIC_DISPATCH(backward_channels)
    (g, plan, range, begin, end, states_of(worker), g.partial_sums.as<float>() + range * 2 * width);
  });
  const auto reduce = [&](const GradView& gradient, int64_t offset) {
    if (!gradient) return;
    for (int64_t c = 0; c < width; ++c) {
      float sum = gradient.accumulate ? gradient.as<float>()[c] : 0.0f;
      for (int64_t range = 0; range < plan.ranges(); ++range) {
        sum += g.partial_sums.as<float>()[range * 2 * width + offset + c];
      }
      gradient.as<float>()[c] = sum;
    }
  };
  reduce(g.dw, 0);
  reduce(g.du, width);
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
