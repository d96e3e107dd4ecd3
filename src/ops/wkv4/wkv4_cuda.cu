// WKV-4 on the GPU, forward: in parallel over time (wkv4_cuda.cuh says how), or row after row.
#include "ops/wkv4/wkv4_cuda.cuh"

namespace rookery::cuda {
namespace wkv4 {
namespace {

constexpr int kWalkRows = 8;  // loaded at a time
// So few rows are walked one by one: a scan would wait more than it works.
constexpr int64_t kFewRows = 128;

// A state may be updated in place. A sequence that ends in a later block is read here before this
// block publishes anything, and that block writes after it has seen what depends on it. One that
// goes on into a later warp is the last to start in its warp, and its state is kept in `initial`.
struct ForwardShared {
  ScanShared scan;
  float initial[kWarps][3][kChannels];
};

// Walks through a fast tile. `kept` [3, kChannels] is memory for what is needed after it only.
template <bool kVector, class T>
__device__ __forceinline__ void walk_tile(const ForwardArgs<T>& g,
                                          const Tile<kForwardRows, T>& tile, const float (&w)[2],
                                          const float (&u)[2], const Borders& borders, int row,
                                          int64_t at, const Lane& lane, int lane_id, float* kept,
                                          const Scaled& state) {
  if (kVector && !lane.in[0]) return;  // once, not at every store
  const bool leaves = borders.ends_at(kForwardRows - 1) && g.a_out.data != nullptr;
  if (leaves) {
    put(kept, lane_id, state.p);
    put(kept + kChannels, lane_id, tile.top);
  }
  float a[2], b[2], decay[2], bonus[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float scale = exp2_fast(state.p[j] - tile.top[j]);
    a[j] = state.a[j] * scale, b[j] = state.b[j] * scale;
    decay[j] = exp2_fast(w[j]), bonus[j] = exp2_fast(u[j]);
  }
  T* y = g.y + at;
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    float vt[2], yt[2];
    tile.v[i].get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = tile.e[i][j], now = bonus[j] * e;
      yt[j] = fmaf(now, vt[j], a[j]) * reciprocal(b[j] + now);
      a[j] = fmaf(decay[j], a[j], e * vt[j]);
      b[j] = fmaf(decay[j], b[j], e);
    }
    store_row<kVector>(y, lane, yt[0], yt[1]);
    y += g.width;
  }
  if (leaves) {
    // The definition's exponent, from the rows themselves.
    float p[2], top[2], w_again[2];
    get(kept, lane_id, p), get(kept + kChannels, lane_id, top);
    load_decay(g.w, lane, w_again);
#pragma unroll 1
    for (int i = 0; i < kForwardRows; ++i) {
      float kt[2];
      load_row<kVector>(g.k + at + int64_t{g.width} * i, lane, true).get(kt);
#pragma unroll
      for (int j = 0; j < 2; ++j) p[j] = fmaxf(p[j] + w_again[j], kt[j] * kLog2E);
    }
    Scaled after;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float scale = exp2_fast(top[j] - p[j]);
      after.a[j] = a[j] * scale, after.b[j] = b[j] * scale, after.p[j] = p[j];
    }
    leave_state(g, g.sequences.of_row[row + kForwardRows - 1], lane, after);
  }
}

// Walks through any rows, with borders anywhere, reading them again.
template <bool kVector, class T>
__device__ __forceinline__ void walk_any(const ForwardArgs<T>& g, const float (&w)[2],
                                         const float (&u)[2], const Borders& borders, int row,
                                         int64_t at, const Lane& lane, int lane_id,
                                         const float* initial, Scaled state) {
  const int last_start = borders.last_start(kForwardRows - 1);
#pragma unroll 1
  for (int i = 0; i < borders.count; ++i) {
    if (borders.starts_at(i)) {
      state = i == last_start ? Scaled::get(initial, lane_id)
                              : state_before(g, g.sequences.of_row[row + i], lane);
    }
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
    if (borders.ends_at(i)) leave_state(g, g.sequences.of_row[row + i], lane, state);
  }
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 4 : 3)
    wkv4_forward_kernel(const ForwardArgs<T> g, const Scan scan) {
  __shared__ ForwardShared shared;
  const int ticket = take_ticket(scan, shared.scan);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane_id = static_cast<int>(threadIdx.x) % kWarp;
  const int segment = ticket / scan.groups, first = segment * kForwardSegment;
  const int row = first + warp * kForwardRows;
  const Lane lane(ticket % scan.groups * kChannels + 2 * lane_id, g.width);
  const int64_t at = int64_t{row} * g.width + lane.c;
  const bool all_there = row + kForwardRows <= g.rows;
  Raw<T> k[kForwardRows];
  Tile<kForwardRows, T> tile;
  load_rows<kVector>(g.k + at, g.width, lane, all_there, k);
  load_rows<kVector>(g.v + at, g.width, lane, all_there, tile.v);
  const Borders borders = find_borders<kForwardRows>(g.sequences.of_row, row, g.rows, lane_id);
  const int begin = static_cast<int>(g.sequences.offsets[g.sequences.of_row[first]]);
  float w[2], w_rows[2], u[2];
  load_decay(g.w, lane, w);
  load_exponents(g.u, lane, u);
#pragma unroll
  for (int j = 0; j < 2; ++j) w_rows[j] = w[j] * kForwardRows;

  float* initial = shared.initial[warp][0];
  if (borders.starts != 0) {
    const int start = row + borders.last_start(kForwardRows - 1);
    state_before(g, g.sequences.of_row[start], lane).put(initial, lane_id);
  }
  bool fast = find_top(k, u, tile.top) && borders.plain(kForwardRows);
  Scaled part;
  if (fast) {
    part = added_by(k, tile, w, g.a_out.data != nullptr);
    if (borders.starts_at(0)) {
      part = combine(Scaled::get(initial, lane_id), w_rows, 1.0f, part);
    }
  } else {
    part = added_by_any<kVector>(g, at, lane, w, borders, initial, lane_id);
    tile.drop();
  }
  Scaled state = scan_block(scan, shared.scan, ticket, warp, lane_id, part, borders.starts != 0,
                            begin != first, segment - begin / kForwardSegment, w_rows);
  if (borders.count == 0) return;
  if (g.segment_states != nullptr && warp % (kSavedSegment / kForwardRows) == 0) {
    float* saved = g.segment_states + int64_t{row / kSavedSegment} * 3 * g.width;
    store_floats(saved, lane, state.a);
    store_floats(saved + g.width, lane, state.b);
    store_floats(saved + 2 * g.width, lane, state.p);
  }
  load_decay(g.w, lane, w), load_exponents(g.u, lane, u);  // again: they were in no register
  if (fast && borders.starts_at(0)) state = Scaled::get(initial, lane_id);
  fast = fast && fits_under(state.p, tile.top);
  if (fast) {
    walk_tile<kVector>(g, tile, w, u, borders, row, at, lane, lane_id, initial, state);
  } else {
    walk_any<kVector>(g, w, u, borders, row, at, lane, lane_id, initial, state);
  }
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
        if (g.segment_states != nullptr && (t + i) % kSavedSegment == 0) {
          float* saved = g.segment_states + (t + i) / kSavedSegment * 3 * g.width + c;
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
  const Scan scan = make_scan(args.rows, args.width, kForwardSegment, ctx);
  const auto blocks = static_cast<unsigned>(scan.orders) * static_cast<unsigned>(scan.groups);
  const bool vector = args.width % 2 == 0 && is_paired(g.k) && is_paired(g.v) && is_paired(g.y);
  const auto kernel = vector ? wkv4_forward_kernel<T, true> : wkv4_forward_kernel<T, false>;
  kernel<<<blocks, kThreads, 0, stream(ctx)>>>(args, scan);
  check_launch("wkv4");
}

}  // namespace
}  // namespace wkv4

void wkv4_forward(const Wkv4Forward& g, Context& ctx) {
  with_type(g.k.dtype, "wkv4", [&](auto type) { wkv4::forward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
