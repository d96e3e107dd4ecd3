// WKV-4 on the GPU, forward: in parallel over time (wkv4_cuda.cuh says how), or row after row.
#include "ops/wkv4/wkv4_cuda.cuh"

namespace rookery::cuda {
namespace wkv4 {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp, kRound = kWarps * kTile;
// Of the walk row by row: threads of a block, and rows loaded at a time.
constexpr int kWalkThreads = 128, kWalkRows = 8;
// So few rows, or rows of so short sequences, are walked one by one.
constexpr int64_t kFewRows = 128, kShort = 32;

template <class T>
struct ForwardShared {
  Rows k[kWarps];     // read at once, then the next round's are on their way
  Rows v[2][kWarps];  // of this round and the next
  WarpParts<T, kWarps> parts;
  ClusterParts<SharedScaled<T>> totals;  // last: there in a cluster only
};

// What a tile adds to the state, in the scale of `e`, 2^scale; e^k v of each row.
template <class T>
__device__ __forceinline__ Scaled<T> added_by_tile(const float (&e)[kTile][kWordOf<T>],
                                                   const Rows& v, const Lane<T>& lane,
                                                   const Channels<T>& channels,
                                                   const float (&scale)[kWordOf<T>],
                                                   float (&ev)[kTile][kWordOf<T>]) {
  Scaled<T> s;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    unpack(v[i][lane.id], ev[i]);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      ev[i][j] *= e[i][j];
      s.a[j] = fmaf(channels.decay[j], s.a[j], ev[i][j]);
      s.b[j] = fmaf(channels.decay[j], s.b[j], e[i][j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) s.p[j] = scale[j];
  return s;
}
// The definition's exponent after a tile, of what it adds: the running maximum.
template <class T>
__device__ __forceinline__ void run_maximum(const uint32_t (&k)[kTile], const Channels<T>& channels,
                                            float (&p)[kWordOf<T>]) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) p[j] = kEmpty;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float kt[kWordOf<T>];
    unpack(k[i], kt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) p[j] = fmaxf(p[j] + channels.w[j], kt[j] * kLog2E);
  }
}
// What any rows add to the state.
template <class T>
__device__ __forceinline__ Scaled<T> added_by_rows(const Rows& k, const Rows& v, int count,
                                                   const Lane<T>& lane,
                                                   const Channels<T>& channels) {
  Scaled<T> s;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    float kt[kWordOf<T>], vt[kWordOf<T>];
    unpack(k[i][lane.id], kt), unpack(v[i][lane.id], vt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) advance(s, j, channels.w[j], kt[j] * kLog2E, vt[j]);
  }
  return s;
}

// Through a tile whose e and state are in one scale. y: the first row's.
template <bool kAligned, class T>
__device__ __forceinline__ void walk_tile(const float (&e)[kTile][kWordOf<T>],
                                          const float (&ev)[kTile][kWordOf<T>], int count,
                                          int width, const Lane<T>& lane,
                                          const Channels<T>& channels, Scaled<T> s, T* y) {
  if (!lane.in[0]) return;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float yt[kWordOf<T>];
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      yt[j] = fmaf(channels.bonus[j], ev[i][j], s.a[j]) *
              reciprocal(fmaf(channels.bonus[j], e[i][j], s.b[j]));
      s.a[j] = fmaf(channels.decay[j], s.a[j], ev[i][j]);
      s.b[j] = fmaf(channels.decay[j], s.b[j], e[i][j]);
    }
    if (i < count) store_word<kAligned>(y, lane, yt);
    y += width;
  }
}
// Through any rows. Those of k are `row_size` elements apart: in shared memory, where words are
// whole, or, when that has the next round's already, in global memory.
template <bool kAligned, bool kAlignedK, class T>
__device__ __forceinline__ void walk_rows(const T* k, int row_size, const Rows& v, int count,
                                          int width, const Lane<T>& lane,
                                          const Channels<T>& channels, const float (&u)[kWordOf<T>],
                                          Scaled<T> s, T* y) {
  if (!lane.in[0]) return;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    float kt[kWordOf<T>], vt[kWordOf<T>], yt[kWordOf<T>];
    unpack(load_word<kAlignedK>(k, lane), kt), unpack(v[i][lane.id], vt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      const ScaledPair e = scale_pair(s.p[j], fmaf(kt[j], kLog2E, u[j]));
      yt[j] = fmaf(e.x, s.a[j], e.y * vt[j]) * reciprocal(fmaf(e.x, s.b[j], e.y));
      advance(s, j, channels.w[j], kt[j] * kLog2E, vt[j]);
    }
    store_word<kAligned>(y, lane, yt);
    k += row_size, y += width;
  }
}

// Moves the power of two of b, where it is normal, from a and b into p.
template <class T>
__device__ __forceinline__ void normalise(Scaled<T>& s) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const int exponent = static_cast<int>(__float_as_uint(s.b[j]) >> 23) - 127;
    if (exponent <= -127 || exponent >= 127) continue;
    const float scale = __uint_as_float(static_cast<unsigned>(127 - exponent) << 23);
    s.a[j] *= scale, s.b[j] *= scale, s.p[j] += static_cast<float>(exponent);
  }
}

template <class T>
__device__ __forceinline__ void leave_state(const ForwardArgs<T>& g, int sequence,
                                            const Lane<T>& lane, const Scaled<T>& s) {
  const int64_t slot = g.sequences.slot_out[sequence];
  if (slot < 0) return;
  float p[kWordOf<T>];
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) p[j] = s.p[j] * kLn2;
  store_floats(&g.a_out.at(slot, 0), lane, s.a);
  store_floats(&g.b_out.at(slot, 0), lane, s.b);
  store_floats(&g.p_out.at(slot, 0), lane, p);
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) wkv4_forward_kernel(const ForwardArgs<T> g) {
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<ForwardShared<T>*>(memory);
  const Cluster cluster;
  const Lane<T> lane(g.width);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int offset = cluster.rank * kRound + warp * kTile;  // of the warp's rows in a round
  Rounds<1> now(g.sequences, static_cast<int>(blockIdx.y) / cluster.size, g.range, g.rows,
                cluster.size * kRound);
  if (!now.there) return;
  Rows& shared_k = shared.k[warp];
  const auto fetch = [&](const Rounds<1>& round, int buffer) {
    const int count = round.rows_at(offset, kTile);
    const int64_t at = int64_t{round.row + offset} * g.width + blockIdx.x * kWarpChannels<T>;
    fetch_rows<kAligned>(g.k + at, g.width, count, lane, shared_k);
    fetch_rows<kAligned>(g.v + at, g.width, count, lane, shared.v[buffer][warp]);
  };
  const auto fetch_next = [&](int buffer) {
    Rounds<1> next = now;
    next.advance();
    if (next.there) fetch(next, buffer);
  };
  fetch(now, 0);
  shared.totals.init(cluster);
  const Channels<T> channels(g, lane);
  // A state that somebody will see has the definition's exponent, and ends with its last row.
  const bool leaves = g.a_out.data != nullptr;
  Scaled<T> carry;
#pragma unroll 1
  for (int round = 0; now.there; ++round) {
    const int buffer = round & 1;
    const int row = now.row + offset, count = now.rows_at(offset, kTile);
    const int64_t at = int64_t{row} * g.width + lane.c;
    if (now.at_begin()) carry = state_before(g, now.sequence, lane);
    const Rows& v = shared.v[buffer][warp];
    wait_for_rows();
    uint32_t k[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) k[i] = shared_k[i][lane.id];
    if (count < kTile) repeat_last(count, k);
    float scale[kWordOf<T>], e[kTile][kWordOf<T>], ev[kTile][kWordOf<T>];
    choose_scale<T>(carry.p, scale);
    const bool fast = __all_sync(kAllLanes, (count == kTile || (count > 0 && !leaves)) &&
                                                channels.allow_one_scale() && fits_in<T>(k, scale));
    Scaled<T> part;
    if (fast) {
      float p[kWordOf<T>];
      if (leaves) run_maximum(k, channels, p);
      exponentials<T>(k, scale, e);
      __syncwarp();
      fetch_next(buffer ^ 1);
      part = added_by_tile(e, v, lane, channels, scale, ev);
      if (leaves) rescale(p, part);
    } else {
      part = added_by_rows(shared_k, v, count, lane, channels);
    }
    bool plain = (fast || count == 0) && !leaves;
    const RoundOf<1, T> here{cluster, now, channels, lane, scale, round};
    BlockSums<T> sums = add_warps(here, part, shared.parts, plain);
    share_sums<kWarps>(here, shared.totals, sums, plain);
    Scaled<T> state = carry_over<kWarps>(here, shared.totals, sums, plain, carry);
    if (plain) normalise(carry);
    if (g.saved != nullptr && count > 0 && row != now.begin) save_state(g, row, lane, state);
    if (fast && (plain || __all_sync(kAllLanes, fits_under<T>(state.p, scale)))) {
      if (!plain) rescale(scale, state);
      walk_tile<kAligned>(e, ev, count, g.width, lane, channels, state, g.y + at);
    } else {
      float u[kWordOf<T>];
      load_bonus(g, lane, u);
      if (fast) {
        walk_rows<kAligned, kAligned>(g.k + at, g.width, v, count, g.width, lane, channels, u,
                                      state, g.y + at);
      } else {
        walk_rows<kAligned, true>(reinterpret_cast<const T*>(&shared_k[0][lane.id]),
                                  kWarpChannels<T>, v, count, g.width, lane, channels, u, state,
                                  g.y + at);
      }
    }
    if (leaves && now.at_end() && cluster.rank == 0 && warp == 0) {
      leave_state(g, now.sequence, lane, carry);
    }
    if (!fast) {
      __syncwarp();
      fetch_next(buffer ^ 1);
    }
    now.advance();
  }
}

// Row after row: a block takes the sequences that start in its `chunk` rows, a thread one channel.
// The rounding of a row does not depend on what else is in the batch, nor on where a sequence was
// cut: exponents stay as they are in the state. For few rows, short sequences, and
// Context::deterministic.
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
  const int64_t first = blockIdx.y * chunk, past = min(first + chunk, int64_t{g.rows});
  for_sequences_starting_in(
      g.sequences, first, past, [&](int sequence, int64_t start, int64_t end) {
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
            if (g.saved != nullptr && t + i > start && (t + i - start) % kTile == 0) {
              float* saved = g.saved + (t + i) / kTile * 3 * g.width + c;
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
      });
}

template <class T, bool kAligned>
void launch(const Wkv4Forward& g, Context& ctx) {
  using Shared = ForwardShared<T>;
  const auto& kernel = ctx.stream->kept<ClusterKernel<wkv4_forward_kernel<T, kAligned>, kThreads,
                                                      offsetof(Shared, totals), sizeof(Shared)>>();
  const Spread spread(g.sequences, g.k.rows(), g.w.count(), kWarpChannels<T>, kRound,
                      kernel.at_once());
  kernel.launch("wkv4", spread.grid, spread.cluster, ctx, ForwardArgs<T>(g, spread.range));
}
template <class T>
void forward(const Wkv4Forward& g, Context& ctx) {
  const int64_t rows = g.k.rows(), width = g.w.count();
  check_walk_size("wkv4", rows, width);
  if (width == 0) return;
  if (g.a_out) {
    pass_states(ctx, "wkv4", g.sequences, g.sequences.slot_in, g.sequences.slot_out,
                {{{DeviceState(g.a_in), DeviceState(g.a_out)},
                  {DeviceState(g.b_in), DeviceState(g.b_out)},
                  {DeviceState(g.p_in), DeviceState(g.p_out), kEmpty}}},
                3, width);
  }
  if (rows == 0) return;
  const bool few = rows <= kFewRows || longest(g.sequences) <= kShort;
  if (few || ctx.deterministic) {
    const int64_t chunk = std::max<int64_t>(few ? 1 : kTile, ceil_div(rows, 65535));
    const dim3 grid(static_cast<unsigned>(ceil_div(width, kWalkThreads)),
                    static_cast<unsigned>(ceil_div(rows, chunk)));
    wkv4_walk_kernel<<<grid, kWalkThreads, 0, stream(ctx)>>>(ForwardArgs<T>(g, 0), chunk);
    check_launch("wkv4");
  } else if (rows_are_aligned<T>(width, g.k, g.v, g.y)) {
    launch<T, true>(g, ctx);
  } else {
    launch<T, false>(g, ctx);
  }
}

}  // namespace
}  // namespace wkv4

void wkv4_forward(const Wkv4Forward& g, Context& ctx) {
  with_type(g.k.dtype, "wkv4", [&](auto type) { wkv4::forward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
