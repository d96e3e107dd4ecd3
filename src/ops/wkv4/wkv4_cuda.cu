// WKV-4 on the GPU, forward: in parallel over time (wkv4_cuda.cuh says how), or row after row.
#include "ops/wkv4/wkv4_cuda.cuh"

namespace rookery::cuda {
namespace wkv4 {
namespace {

constexpr int kWalkRows = 8;  // loaded at a time
// So few rows are walked one by one: three launches would wait more than they work.
constexpr int64_t kFewRows = 128;

// Launch 1. `exact`: exponents are the definition's, for states that somebody will see.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 6 : 4)
    wkv4_add_kernel(const ForwardArgs<T> g, int64_t segments, bool exact, float* parts,
                    int* closed) {
  if (warp_index() >= segments) return;
  const Place at_place(warp_index(), g.rows, g.width);
  const Lane& lane = at_place.lane;
  float w[2], u[2];
  load_decay(g.w, lane, w), load_exponents(g.u, lane, u);
  Scaled state;
  bool is_closed = false;
#pragma unroll 1
  for (int row = at_place.row; row < at_place.end; row += kTile) {
    const int64_t at = int64_t{row} * g.width + lane.c;
    const bool all_there = row + kTile <= g.rows;
    Raw<T> k[kTile];
    Tile<kTile, T> tile;
    load_rows<kVector>(g.k + at, g.width, lane, all_there, k);
    load_rows<kVector>(g.v + at, g.width, lane, all_there, tile.v);
    const Borders borders = find_borders<kTile>(g.sequences.of_row, row, g.rows, at_place.lane_id);
    is_closed = is_closed || borders.starts != 0;
    if (find_top(k, u, tile.top) && borders.plain(kTile)) {
      if (borders.starts_at(0)) state = state_before(g, g.sequences.of_row[row], lane);
      state = combine(state, w, kTile, added_by(k, tile, w, exact));
    } else {
      add_any<kVector>(g, row, at, lane, w, borders, state);
    }
  }
  store_state(parts, at_place.segment, g.width, lane, state);
  if (at_place.lane_id == 0 && blockIdx.y == 0) closed[at_place.segment] = is_closed ? 1 : 0;
}

// A state may be updated in place, and the warp that has a sequence's end may run before that which
// has its start. So the state after a sequence that began in an earlier segment is put aside, in
// `left` [segments, 3, width], and another launch brings it to its slot. Others are this warp's
// own.
template <class T>
__device__ __forceinline__ void leave(const ForwardArgs<T>& g, float* left, const Place& place,
                                      int row, const Scaled& state) {
  if (g.a_out.data == nullptr) return;
  const int sequence = g.sequences.of_row[row];
  if (g.sequences.offsets[sequence] < place.row) {
    store_state(left, place.segment, g.width, place.lane, state);
  } else {
    leave_state(g, sequence, place.lane, state);
  }
}

// Through a fast tile.
template <bool kVector, class T>
__device__ __forceinline__ void walk_tile(const ForwardArgs<T>& g, const Raw<T> (&k)[kTile],
                                          Tile<kTile, T>& tile, const float (&w)[2],
                                          const float (&u)[2], bool exact, int64_t at,
                                          const Lane& lane, Scaled& state) {
  if (kVector && !lane.in[0]) return;  // once, not at every store
  float p[2] = {state.p[0], state.p[1]}, decay[2], bonus[2];
  if (exact) run_maximum(k, w, p);
  scale_rows(k, tile);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float scale = exp2_fast(state.p[j] - tile.top[j]);
    state.a[j] *= scale, state.b[j] *= scale;
    decay[j] = exp2_fast(w[j]), bonus[j] = exp2_fast(u[j]);
  }
  T* y = g.y + at;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float vt[2], yt[2];
    tile.v[i].get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = tile.e[i][j], now = bonus[j] * e;
      yt[j] = fmaf(now, vt[j], state.a[j]) * reciprocal(state.b[j] + now);
      state.a[j] = fmaf(decay[j], state.a[j], e * vt[j]);
      state.b[j] = fmaf(decay[j], state.b[j], e);
    }
    store_row<kVector>(y, lane, yt[0], yt[1]);
    y += g.width;
  }
  rescale(tile.top, exact, p, state);
}

// Through any rows, with borders anywhere, reading them again.
template <bool kVector, class T>
__device__ __forceinline__ void walk_any(const ForwardArgs<T>& g, float* left, const Place& place,
                                         const float (&w)[2], const float (&u)[2],
                                         const Borders& borders, int row, int64_t at,
                                         Scaled& state) {
  const Lane& lane = place.lane;
#pragma unroll 1
  for (int i = 0; i < borders.count; ++i) {
    if (borders.starts_at(i)) state = state_before(g, g.sequences.of_row[row + i], lane);
    const int64_t here = at + int64_t{g.width} * i;
    float kt[2], vt[2], yt[2];
    load_row<kVector>(g.k + here, lane, true).get(kt);
    load_row<kVector>(g.v + here, lane, true).get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const ScaledPair e = scale_pair(state.p[j], fmaf(kt[j], kLog2E, u[j]));
      yt[j] = fmaf(e.x, state.a[j], e.y * vt[j]) * reciprocal(fmaf(e.x, state.b[j], e.y));
      advance(state, j, w[j], kt[j] * kLog2E, vt[j]);
    }
    store_row<kVector>(g.y + here, lane, yt[0], yt[1]);
    if (borders.ends_at(i)) leave(g, left, place, row + i, state);
  }
}

// Launch 3, from the last segment on.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 6 : 4)
    wkv4_forward_kernel(const ForwardArgs<T> g, int64_t segments, bool exact, const float* before,
                        float* left) {
  if (warp_index() >= segments) return;
  const Place place(segments - 1 - warp_index(), g.rows, g.width);
  const Lane& lane = place.lane;
  float w[2], u[2];
  load_decay(g.w, lane, w), load_exponents(g.u, lane, u);
  Scaled state;
  if (place.segment > 0) state = load_state(before, place.segment, g.width, lane);
#pragma unroll 1
  for (int row = place.row; row < place.end; row += kTile) {
    const int64_t at = int64_t{row} * g.width + lane.c;
    const bool all_there = row + kTile <= g.rows;
    Raw<T> k[kTile];
    Tile<kTile, T> tile;
    load_rows<kVector>(g.k + at, g.width, lane, all_there, k);
    load_rows<kVector>(g.v + at, g.width, lane, all_there, tile.v);
    const Borders borders = find_borders<kTile>(g.sequences.of_row, row, g.rows, place.lane_id);
    bool fast = find_top(k, u, tile.top) && borders.plain(kTile);
    if (fast && borders.starts_at(0)) state = state_before(g, g.sequences.of_row[row], lane);
    fast = fast && fits_under(state.p, tile.top);
    if (fast) {
      walk_tile<kVector>(g, k, tile, w, u, exact, at, lane, state);
      if (borders.ends_at(kTile - 1)) leave(g, left, place, row + kTile - 1, state);
    } else {
      walk_any<kVector>(g, left, place, w, u, borders, row, at, state);
    }
  }
}

// Brings the states that were put aside to their slots.
template <class T>
__global__ void __launch_bounds__(kWalkThreads)
    wkv4_leave_kernel(const ForwardArgs<T> g, const float* left) {
  const int c = static_cast<int>(blockIdx.y * kWalkThreads + threadIdx.x);
  const int64_t segment = blockIdx.x, row = segment * kSegment;
  const int sequence = g.sequences.of_row[row];
  const int64_t end = g.sequences.offsets[sequence + 1];
  const int64_t slot = g.sequences.slot_out[sequence];
  if (c >= g.width || slot < 0 || g.sequences.offsets[sequence] >= row || end > row + kSegment) {
    return;
  }
  const float* from = left + segment * 3 * g.width + c;
  g.a_out.at(slot, c) = from[0];
  g.b_out.at(slot, c) = from[g.width];
  g.p_out.at(slot, c) = from[2 * g.width] * kLn2;
}

// Row after row: a block takes the sequences that start in its `chunk` rows, a thread one channel.
// The rounding of a row does not depend on what else is in the batch, nor on where a sequence was
// cut: exponents stay as they are in the state. For few rows, and for Context::deterministic.
template <class T>
__global__ void __launch_bounds__(kWalkThreads)
    wkv4_walk_kernel(const ForwardArgs<T> g, int64_t chunk) {
  const int c = static_cast<int>(blockIdx.x * kWalkThreads + threadIdx.x);
  if (c >= g.width) return;
  const float w = g.w[c] < kLowestDecay ? kLowestDecay : g.w[c], u = g.u[c];
  const auto scale = [](float x, float y) {
    const float difference = x - y, smaller = exp2_fast(-fabsf(difference) * kLog2E);
    return ScaledPair{fmaxf(x, y), difference >= 0.0f ? 1.0f : smaller,
                      difference >= 0.0f ? smaller : 1.0f};
  };
  const int64_t first = blockIdx.y * chunk;
  for (int64_t start = first; start < first + chunk && start < g.rows; ++start) {
    const int sequence = g.sequences.of_row[start];
    if (g.sequences.offsets[sequence] != start) continue;
    const int64_t end = g.sequences.offsets[sequence + 1];
    const int64_t in = g.a_in.data != nullptr ? g.sequences.slot_in[sequence] : -1;
    const int64_t out = g.a_out.data != nullptr ? g.sequences.slot_out[sequence] : -1;
    float a = in < 0 ? 0.0f : g.a_in.at(in, c), b = in < 0 ? 0.0f : g.b_in.at(in, c);
    float p = in < 0 ? kEmpty : g.p_in.at(in, c);
    for (int64_t t = start; t < end; t += kWalkRows) {
      T k[kWalkRows], v[kWalkRows];
#pragma unroll
      for (int i = 0; i < kWalkRows; ++i) {
        if (t + i >= end) continue;
        k[i] = g.k[(t + i) * g.width + c];
        v[i] = g.v[(t + i) * g.width + c];
      }
#pragma unroll
      for (int i = 0; i < kWalkRows; ++i) {
        if (t + i >= end) continue;
        if (g.segment_states != nullptr && (t + i) % kSegment == 0) {
          float* saved = g.segment_states + (t + i) / kSegment * 3 * g.width + c;
          saved[0] = a, saved[g.width] = b, saved[2 * g.width] = p * kLog2E;
        }
        const float kt = to_float(k[i]), vt = to_float(v[i]);
        ScaledPair e = scale(p, __fadd_rn(u, kt));
        g.y[(t + i) * g.width + c] = from_float<T>(
            __fmul_rn(fmaf(e.x, a, __fmul_rn(e.y, vt)), reciprocal(fmaf(e.x, b, e.y))));
        e = scale(__fadd_rn(p, w), kt);
        a = fmaf(e.x, a, __fmul_rn(e.y, vt));
        b = fmaf(e.x, b, e.y);
        p = e.maximum;
      }
    }
    if (out >= 0) g.a_out.at(out, c) = a, g.b_out.at(out, c) = b, g.p_out.at(out, c) = p;
  }
}

// A sequence of no tokens leaves its state as it was.
template <class T>
__global__ void pass_states_kernel(const ForwardArgs<T> g) {
  const int c = static_cast<int>(blockIdx.x * kWalkThreads + threadIdx.x);
  const int64_t s = blockIdx.y;
  if (c >= g.width || g.sequences.offsets[s] != g.sequences.offsets[s + 1]) return;
  const int64_t in = g.a_in.data != nullptr ? g.sequences.slot_in[s] : -1;
  const int64_t out = g.sequences.slot_out[s];
  if (out < 0) return;
  g.a_out.at(out, c) = in < 0 ? 0.0f : g.a_in.at(in, c);
  g.b_out.at(out, c) = in < 0 ? 0.0f : g.b_in.at(in, c);
  g.p_out.at(out, c) = in < 0 ? kEmpty : g.p_in.at(in, c);
}
template <class T>
void forward(const Wkv4Forward& g, Context& ctx) {
  check_size(g);
  const ForwardArgs<T> args(g);
  if (args.width == 0) return;
  if (g.a_out && has_empty(g.sequences)) {
    pass_states_kernel<<<pass_grid(args.width, g.sequences), kWalkThreads, 0, stream(ctx)>>>(args);
    check_launch("wkv4");
  }
  if (args.rows == 0) return;
  if (ctx.deterministic || args.rows <= kFewRows) {
    const int64_t chunk =
        args.rows <= kFewRows ? 1 : std::max<int64_t>(16, ceil_div(args.rows, 65535));
    const dim3 grid(static_cast<unsigned>(ceil_div(args.width, kWalkThreads)),
                    static_cast<unsigned>(ceil_div(args.rows, chunk)));
    wkv4_walk_kernel<<<grid, kWalkThreads, 0, stream(ctx)>>>(args, chunk);
    check_launch("wkv4");
    return;
  }
  const ArenaScope scope(*ctx.arena);
  const int64_t segments = ceil_div(args.rows, kSegment), width = args.width;
  const auto states = [&] {
    return static_cast<float*>(ctx.arena->allocate(segments * 3 * width * 4));
  };
  float* const parts = states();
  float* const before = args.segment_states != nullptr ? args.segment_states : states();
  float* const left = args.a_out.data != nullptr ? states() : nullptr;
  auto* const closed = static_cast<int*>(ctx.arena->allocate(segments * 4));
  const bool exact = args.a_out.data != nullptr;
  const bool vector = width % 2 == 0 && is_paired(g.k) && is_paired(g.v) && is_paired(g.y);
  const dim3 grid(static_cast<unsigned>(ceil_div(segments, kWarps)),
                  static_cast<unsigned>(ceil_div(width, kChannels)));
  const auto add = vector ? wkv4_add_kernel<T, true> : wkv4_add_kernel<T, false>;
  add<<<grid, kThreads, 0, stream(ctx)>>>(args, segments, exact, parts, closed);
  check_launch("wkv4");
  carry<1>(args.w, parts, closed, segments, width, kSegment, before, ctx);
  const auto walk = vector ? wkv4_forward_kernel<T, true> : wkv4_forward_kernel<T, false>;
  walk<<<grid, kThreads, 0, stream(ctx)>>>(args, segments, exact, before, left);
  check_launch("wkv4");
  if (left == nullptr) return;
  const dim3 all(static_cast<unsigned>(segments),
                 static_cast<unsigned>(ceil_div(width, kWalkThreads)));
  wkv4_leave_kernel<<<all, kWalkThreads, 0, stream(ctx)>>>(args, left);
  check_launch("wkv4");
}

}  // namespace
}  // namespace wkv4

void wkv4_forward(const Wkv4Forward& g, Context& ctx) {
  with_type(g.k.dtype, "wkv4", [&](auto type) { wkv4::forward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
