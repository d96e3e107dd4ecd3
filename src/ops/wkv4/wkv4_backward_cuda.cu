// WKV-4 on the GPU, backward: in parallel over time, from the end; wkv4_cuda.cuh says how.
#include "core/cuda/shares.cuh"
#include "ops/wkv4/wkv4_cuda.cuh"

namespace rookery::cuda {
namespace wkv4 {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRound = kWarps * kTile;

template <class T>
struct BackwardArgs {
  ForwardArgs<T> forward;
  const T* dy;
  T *dk, *dv;
  bool accumulate_dk, accumulate_dv;
  DeviceState da_out, db_out, da_in, db_in;
  float* shares = nullptr;  // [grid.y, 2, A] of dw and du

  explicit BackwardArgs(const Wkv4Backward& g)
      : forward(g.forward, 0),
        dy(static_cast<const T*>(g.dy.data)),
        dk(static_cast<T*>(g.dk.data)),
        dv(static_cast<T*>(g.dv.data)),
        accumulate_dk(g.dk.accumulate),
        accumulate_dv(g.dv.accumulate),
        da_out(g.da_out),
        db_out(g.db_out),
        da_in(g.da_in),
        db_in(g.db_in) {}
};

template <class T>
struct BackwardShared {
  Rows k[2][kWarps], v[2][kWarps], dy[2][kWarps];  // of this round and the next
  WarpParts<T, kWarps> parts;
  ClusterParts<SharedScaled<T>> totals;  // last: there in a cluster only
};

// The gradient of a sequence's final state: a and b are given in the gauge p.
template <class T>
__device__ __forceinline__ Scaled<T> gradient_after(const BackwardArgs<T>& g, int sequence,
                                                    const Lane<T>& lane) {
  Scaled<T> s;
  const int64_t slot = g.da_out.data != nullptr ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot >= 0) {
    load_floats(&g.da_out.at(slot, 0), lane, s.a);
    load_floats(&g.db_out.at(slot, 0), lane, s.b);
    load_floats(&g.forward.p_out.at(slot, 0), lane, s.p);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) s.p[j] *= -kLog2E;
  }
  return s;
}
template <class T>
__device__ __forceinline__ void leave_gradient(const BackwardArgs<T>& g, int sequence,
                                               const Lane<T>& lane, const Scaled<T>& gradient) {
  const int64_t slot = g.da_in.data != nullptr ? g.forward.sequences.slot_in[sequence] : -1;
  if (slot < 0) return;
  float p[kWordOf<T>], da[kWordOf<T>], db[kWordOf<T>];
  load_floats(&g.forward.p_in.at(slot, 0), lane, p);
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const float scale = exp2_fast(fmaf(p[j], kLog2E, gradient.p[j]));
    da[j] = gradient.a[j] * scale;
    db[j] = gradient.b[j] * scale;
  }
  store_floats(&g.da_in.at(slot, 0), lane, da);
  store_floats(&g.db_in.at(slot, 0), lane, db);
}

// The state before a tile.
template <class T>
__device__ __forceinline__ const float* saved_state(const ForwardArgs<T>& f, int row) {
  return f.saved + int64_t{row / kTile} * 3 * f.width;
}
template <class T>
__device__ __forceinline__ Scaled<T> state_at(const ForwardArgs<T>& f, int row,
                                              const Rounds<-1>& round, const Lane<T>& lane) {
  if (row == round.begin) return state_before(f, round.sequence, lane);
  Scaled<T> s;
  const float* from = saved_state(f, row);
  load_floats(from, lane, s.a);
  load_floats(from + f.width, lane, s.b);
  load_floats(from + 2 * f.width, lane, s.p);
  return s;
}
// The exponent of the state before a round.
template <class T>
__device__ __forceinline__ void exponent_before(const ForwardArgs<T>& f, const Rounds<-1>& round,
                                                const Lane<T>& lane, float (&p)[kWordOf<T>]) {
  if (round.at_begin()) {
    const Scaled<T> s = state_before(f, round.sequence, lane);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) p[j] = s.p[j];
  } else {
    load_floats(saved_state(f, round.row) + 2 * f.width, lane, p);
  }
}
template <class T>
__device__ __forceinline__ void prefetch_state(const ForwardArgs<T>& f, int row,
                                               const Lane<T>& lane) {
  const float* from = saved_state(f, row) + lane.c;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (lane.in[0]) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + int64_t{i} * f.width));
  }
}

// y of a row of a tile takes the place of that row's k and dy, which are not needed any more.
__device__ __forceinline__ void put_y(Rows& k, Rows& dy, int i, int lane, const float (&y)[2]) {
  k[i][lane] = __float_as_uint(y[0]), dy[i][lane] = __float_as_uint(y[1]);
}
__device__ __forceinline__ void put_y(Rows& k, Rows&, int i, int lane, const float (&y)[1]) {
  k[i][lane] = __float_as_uint(y[0]);
}
__device__ __forceinline__ void get_y(const Rows& k, const Rows& dy, int i, int lane,
                                      float (&y)[2]) {
  y[0] = __uint_as_float(k[i][lane]), y[1] = __uint_as_float(dy[i][lane]);
}
__device__ __forceinline__ void get_y(const Rows& k, const Rows&, int i, int lane, float (&y)[1]) {
  y[0] = __uint_as_float(k[i][lane]);
}

// Through a tile in one scale, forward: r = dy / denominator (in the scale 2^-scale) and y of each
// row, the state after it, and what its outputs add to the gradient of the state before it.
template <class T>
__device__ __forceinline__ Scaled<T> sweep_tile(const float (&e)[kTile][kWordOf<T>], Rows& k,
                                                const Rows& v, Rows& dy, const Lane<T>& lane,
                                                const Channels<T>& channels, Scaled<T>& state,
                                                float (&r)[kTile][kWordOf<T>]) {
  Scaled<T> part;
  float reach[kWordOf<T>];  // decay from the state before the tile to that before row i
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) part.p[j] = -state.p[j], reach[j] = 1.0f;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float vt[kWordOf<T>], dyt[kWordOf<T>], y[kWordOf<T>];
    unpack(v[i][lane.id], vt), unpack(dy[i][lane.id], dyt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      const float now = channels.bonus[j] * e[i][j];
      const float inverse = reciprocal(state.b[j] + now);
      y[j] = fmaf(now, vt[j], state.a[j]) * inverse;
      r[i][j] = dyt[j] * inverse;
      const float share = reach[j] * r[i][j];
      part.a[j] += share;
      part.b[j] = fmaf(-share, y[j], part.b[j]);
      reach[j] *= channels.decay[j];
      state.a[j] = fmaf(channels.decay[j], state.a[j], e[i][j] * vt[j]);
      state.b[j] = fmaf(channels.decay[j], state.b[j], e[i][j]);
    }
    put_y(k, dy, i, lane.id, y);
  }
  return part;
}
// What the outputs of any rows add to the gradient of the state before them.
template <class T>
__device__ __forceinline__ Scaled<T> sweep_rows(const Rows& k, const Rows& v, const Rows& dy,
                                                int count, const Lane<T>& lane,
                                                const Channels<T>& channels,
                                                const float (&u)[kWordOf<T>], Scaled<T> state) {
  Scaled<T> part;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    float kt[kWordOf<T>], vt[kWordOf<T>], dyt[kWordOf<T>];
    unpack(k[i][lane.id], kt), unpack(v[i][lane.id], vt), unpack(dy[i][lane.id], dyt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      const ScaledPair e = scale_pair(state.p[j], fmaf(kt[j], kLog2E, u[j]));
      const float inverse = reciprocal(fmaf(e.x, state.b[j], e.y));
      const float y = fmaf(e.x, state.a[j], e.y * vt[j]) * inverse;
      const ScaledPair sum =
          scale_pair(part.p[j], fmaf(static_cast<float>(i), channels.w[j], -e.maximum));
      const float share = sum.y * dyt[j] * inverse;
      part.a[j] = fmaf(sum.x, part.a[j], share);
      part.b[j] = fmaf(sum.x, part.b[j], -share * y);
      part.p[j] = sum.maximum;
      advance(state, j, channels.w[j], kt[j] * kLog2E, vt[j]);
    }
  }
  return part;
}

template <bool kAligned, class T>
__device__ __forceinline__ void store_gradient(T* to, bool accumulate, const Lane<T>& lane,
                                               float (&x)[kWordOf<T>]) {
  if (accumulate) {
    float before[kWordOf<T>];
    unpack(load_word<kAligned>(to, lane), before);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) x[j] += before[j];
  }
  store_word<kAligned>(to, lane, x);
}

// Through a tile in one scale, from its end. `gradient` is that of the state after it; `first` and
// `state` are the states before and after it. kBoth: dk and dv are wanted, and not added to what is
// there.
//
// dw needs no states inside the tile. With G_i, S_i the gradient of and the state after row i of n,
// D_i = <G_i, e^w S_{i-1}> is row i's share of dw, and what row i adds to the state or takes from
// it ties neighbours:
//   <G_i, S_i> = D_i + K_i,   <G_{i-1}, S_{i-1}> = D_i + C_i,
// K_i being dk_i's part through the state, C_i = dy_i (A_{i-1} - y_i B_{i-1}) / denominator, which
// is -du_i as y_i is the weighted mean of old state and v_i. With dk_i = du_i + K_i,
//   sum_i D_i = n <G_{n-1}, S_{n-1}> - sum_i (i + 1) dk_i + sum_i du_i
//             = n <G_{-1}, S_{-1}> + sum_i (n - 1 - i) dk_i + sum_i du_i.
// The second serves for the first half of the rows, so that less is multiplied and cancelled.
template <bool kBoth, bool kAligned, class T>
__device__ __forceinline__ void retreat_tile(
    const BackwardArgs<T>& g, const float (&e)[kTile][kWordOf<T>], const Rows& k, const Rows& v,
    const Rows& dy, const float (&r)[kTile][kWordOf<T>], int count, int64_t at, const Lane<T>& lane,
    const Channels<T>& channels, const Scaled<T>& first, const Scaled<T>& state, Scaled<T> gradient,
    float (&dw)[kWordOf<T>], float (&du)[kWordOf<T>]) {
  constexpr int kHalf = kTile / 2;
  const int width = g.forward.width;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const float product = fmaf(state.a[j], gradient.a[j], state.b[j] * gradient.b[j]);
    dw[j] = fmaf(static_cast<float>(kTile - kHalf), product, dw[j]);
  }
  float sum[kWordOf<T>] = {};
#pragma unroll
  for (int i = kTile - 1; i >= 0; --i) {
    float vt[kWordOf<T>], y[kWordOf<T>], dk[kWordOf<T>], dv[kWordOf<T>];
    unpack(v[i][lane.id], vt), get_y(k, dy, i, lane.id, y);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      const float direct = channels.bonus[j] * r[i][j];
      const float direct_k = e[i][j] * direct * (vt[j] - y[j]);
      dk[j] = fmaf(e[i][j], fmaf(gradient.a[j], vt[j], gradient.b[j]), direct_k);
      dv[j] = e[i][j] * (gradient.a[j] + direct);
      sum[j] += direct_k;
      dw[j] = fmaf(static_cast<float>(kHalf - 1 - i), dk[j], dw[j]);
      gradient.a[j] = fmaf(channels.decay[j], gradient.a[j], r[i][j]);
      gradient.b[j] = fmaf(channels.decay[j], gradient.b[j], -r[i][j] * y[j]);
    }
    if (i < count && lane.in[0]) {
      const int64_t here = at + int64_t{width} * i;
      if (kBoth || g.dk != nullptr) {
        store_gradient<kAligned>(g.dk + here, !kBoth && g.accumulate_dk, lane, dk);
      }
      if (kBoth || g.dv != nullptr) {
        store_gradient<kAligned>(g.dv + here, !kBoth && g.accumulate_dv, lane, dv);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const float product = fmaf(first.a[j], gradient.a[j], first.b[j] * gradient.b[j]);
    dw[j] += fmaf(static_cast<float>(kHalf), product, sum[j]);
    du[j] += sum[j];
  }
}
// Through any rows. The state before each is found from that before the first: there are few, and
// they come seldom.
template <bool kAligned, class T>
__device__ __forceinline__ void retreat_rows(const BackwardArgs<T>& g, int count, int64_t at,
                                             const Lane<T>& lane, const Channels<T>& channels,
                                             const float (&u)[kWordOf<T>], const Scaled<T>& first,
                                             Scaled<T> gradient, float (&dw)[kWordOf<T>],
                                             float (&du)[kWordOf<T>]) {
  const ForwardArgs<T>& f = g.forward;
  if (!lane.in[0]) return;
#pragma unroll 1
  for (int i = count - 1; i >= 0; --i) {
    Scaled<T> state = first;
    float kt[kWordOf<T>], vt[kWordOf<T>], dyt[kWordOf<T>], dk[kWordOf<T>], dv[kWordOf<T>];
#pragma unroll 1
    for (int m = 0; m <= i; ++m) {
      const int64_t here = at + int64_t{f.width} * m;
      unpack(load_word<kAligned>(f.k + here, lane), kt);
      unpack(load_word<kAligned>(f.v + here, lane), vt);
      if (m == i) break;
#pragma unroll
      for (int j = 0; j < kWordOf<T>; ++j) advance(state, j, channels.w[j], kt[j] * kLog2E, vt[j]);
    }
    const int64_t here = at + int64_t{f.width} * i;
    unpack(load_word<kAligned>(g.dy + here, lane), dyt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      const float now = fmaf(kt[j], kLog2E, u[j]);
      ScaledPair e = scale_pair(state.p[j], now);
      const float q = e.maximum, inverse = reciprocal(fmaf(e.x, state.b[j], e.y));
      const float y = fmaf(e.x, state.a[j], e.y * vt[j]) * inverse, r = dyt[j] * inverse;
      // Through this output, and through the state after this row. The gradient's exponent is minus
      // a later q, which this row's k, decayed, does not exceed, or the scale of later tiles.
      const float direct = r * e.y, direct_k = direct * (vt[j] - y);
      const float stored = exp2_fast(fmaf(kt[j], kLog2E, gradient.p[j]));
      dk[j] = fmaf(stored, fmaf(gradient.a[j], vt[j], gradient.b[j]), direct_k);
      dv[j] = fmaf(stored, gradient.a[j], direct);
      du[j] += direct_k;
      const float decayed = exp2_fast(gradient.p[j] + channels.w[j] + state.p[j]);
      dw[j] = fmaf(decayed, fmaf(gradient.a[j], state.a[j], gradient.b[j] * state.b[j]), dw[j]);
      e = scale_pair(gradient.p[j] + channels.w[j], -q);
      gradient.a[j] = fmaf(e.x, gradient.a[j], e.y * r);
      gradient.b[j] = fmaf(e.x, gradient.b[j], -e.y * r * y);
      gradient.p[j] = e.maximum;
    }
    if (g.dk != nullptr) store_gradient<kAligned>(g.dk + here, g.accumulate_dk, lane, dk);
    if (g.dv != nullptr) store_gradient<kAligned>(g.dv + here, g.accumulate_dv, lane, dv);
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3) wkv4_backward_kernel(const BackwardArgs<T> g) {
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<BackwardShared<T>*>(memory);
  const ForwardArgs<T>& f = g.forward;
  const Cluster cluster;
  const Lane<T> lane(f.width);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int offset = cluster.rank * kRound + warp * kTile;  // of the warp's rows in a round
  Rounds<-1> now(f.sequences, static_cast<int>(blockIdx.y) / cluster.size, f.range, f.rows,
                 cluster.size * kRound);
  const auto fetch = [&](const Rounds<-1>& round, int buffer) {
    const int count = round.rows_at(offset, kTile), row = round.row + offset;
    const int64_t at = int64_t{row} * f.width + blockIdx.x * kWarpChannels<T>;
    fetch_rows<kAligned>(f.k + at, f.width, count, lane, shared.k[buffer][warp]);
    fetch_rows<kAligned>(f.v + at, f.width, count, lane, shared.v[buffer][warp]);
    fetch_rows<kAligned>(g.dy + at, f.width, count, lane, shared.dy[buffer][warp]);
    if (count > 0 && row != round.begin) prefetch_state(f, row, lane);
  };
  const auto fetch_next = [&](int buffer) {
    Rounds<-1> next = now;
    next.advance();
    if (next.there) fetch(next, buffer);
  };
  if (now.there) fetch(now, 0);
  shared.totals.init(cluster);
  const Channels<T> channels(f, lane);
  const bool from_after = g.da_out.data != nullptr;
  const bool both = g.dk != nullptr && g.dv != nullptr && !g.accumulate_dk && !g.accumulate_dv;
  float dw[kWordOf<T>] = {}, du[kWordOf<T>] = {};
  Scaled<T> carry;
#pragma unroll 1
  for (int round = 0; now.there; ++round) {
    const int buffer = round & 1;
    const int row = now.row + offset, count = now.rows_at(offset, kTile);
    const int64_t at = int64_t{row} * f.width + lane.c;
    Rows &shared_k = shared.k[buffer][warp], &shared_dy = shared.dy[buffer][warp];
    const Rows& v = shared.v[buffer][warp];
    if (now.at_end()) carry = gradient_after(g, now.sequence, lane);
    Scaled<T> first;
    if (count > 0) first = state_at(f, row, now, lane);
    float scale[kWordOf<T>], negative[kWordOf<T>];
    exponent_before(f, now, lane, scale);
    choose_scale<T>(scale, scale);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) negative[j] = -scale[j];
    wait_for_rows();
    fetch_next(buffer ^ 1);
    uint32_t k[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) k[i] = shared_k[i][lane.id];
    if (count < kTile) repeat_last(count, k);
    const bool fast = __all_sync(
        kAllLanes, (count == kTile || (count > 0 && !from_after)) && channels.allow_one_scale() &&
                       fits_in<T>(k, scale) && fits_under<T>(first.p, scale));
    float e[kTile][kWordOf<T>], r[kTile][kWordOf<T>];
    Scaled<T> state, part;
    if (fast) {
      rescale(scale, first);
      state = first;
      exponentials<T>(k, scale, e);
      part = sweep_tile(e, shared_k, v, shared_dy, lane, channels, state, r);
    } else {
      float u[kWordOf<T>];
      load_bonus(f, lane, u);
      part = sweep_rows(shared_k, v, shared_dy, count, lane, channels, u, first);
    }
    bool plain = (fast || (count == 0 && !from_after)) && fits_under<T>(carry.p, negative);
    const RoundOf<-1, T> here{cluster, now, channels, lane, negative, round};
    BlockSums<T> sums = add_warps(here, part, shared.parts, plain);
    share_sums<kWarps>(here, shared.totals, sums, plain);
    Scaled<T> gradient = carry_over<kWarps>(here, shared.totals, sums, plain, carry);
    if (fast && (plain || __all_sync(kAllLanes, fits_under<T>(gradient.p, negative)))) {
      if (!plain) rescale(negative, gradient);
      if (both) {
        retreat_tile<true, kAligned>(g, e, shared_k, v, shared_dy, r, count, at, lane, channels,
                                     first, state, gradient, dw, du);
      } else {
        retreat_tile<false, kAligned>(g, e, shared_k, v, shared_dy, r, count, at, lane, channels,
                                      first, state, gradient, dw, du);
      }
    } else {
      float u[kWordOf<T>];
      load_bonus(f, lane, u);
      retreat_rows<kAligned>(g, count, at, lane, channels, u, first, gradient, dw, du);
    }
    if (now.at_begin() && cluster.rank == 0 && warp == 0) {
      leave_gradient(g, now.sequence, lane, carry);
    }
    __syncwarp();  // what is here may be overwritten
    now.advance();
  }
  __syncthreads();
  Scaled<T> sums;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) sums.a[j] = dw[j], sums.b[j] = du[j];
  shared.parts.of_warp[0][warp].put(lane, sums);
  __syncthreads();
  if (warp != 0) return;
  for (int i = 1; i < kWarps; ++i) {
    const Scaled<T> other = shared.parts.of_warp[0][i].get(lane, false);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) sums.a[j] += other.a[j], sums.b[j] += other.b[j];
  }
  float* to = g.shares + int64_t{2} * blockIdx.y * f.width;
  store_floats(to, lane, sums.a);
  store_floats(to + f.width, lane, sums.b);
}

// Returns how many shares of dw and du there are.
template <class T, bool kAligned>
int64_t launch(const Wkv4Backward& g, Context& ctx, BackwardArgs<T>& args) {
  using Shared = BackwardShared<T>;
  const auto& kernel = ctx.stream->kept<ClusterKernel<wkv4_backward_kernel<T, kAligned>, kThreads,
                                                      offsetof(Shared, totals), sizeof(Shared)>>();
  const Wkv4Forward& f = g.forward;
  const Spread spread(f.sequences, f.k.rows(), f.w.count(), kWarpChannels<T>, kRound,
                      kernel.at_once());
  args.forward.range = static_cast<int>(spread.range);
  args.shares =
      static_cast<float*>(ctx.arena->allocate(int64_t{2} * spread.grid.y * args.forward.width * 4));
  kernel.launch("wkv4.backward", spread.grid, spread.cluster, ctx, args);
  return spread.grid.y;
}
template <class T>
void backward(const Wkv4Backward& g, Context& ctx) {
  const Wkv4Forward& f = g.forward;
  const int64_t width = f.w.count();
  check_walk_size("wkv4.backward", f.k.rows(), width);
  if (width == 0) return;
  const ArenaScope scope(*ctx.arena);
  BackwardArgs<T> args(g);
  if (g.da_in) {
    pass_states(ctx, "wkv4.backward", f.sequences, f.sequences.slot_out, f.sequences.slot_in,
                {{{DeviceState(g.da_out), DeviceState(g.da_in)},
                  {DeviceState(g.db_out), DeviceState(g.db_in)}}},
                2, width);
  }
  int64_t shares = 0;
  if (f.k.rows() > 0) {
    const bool aligned = rows_are_aligned<T>(width, f.k, f.v, g.dy, g.dk, g.dv);
    shares = aligned ? launch<T, true>(g, ctx, args) : launch<T, false>(g, ctx, args);
  }
  ShareSums sums;
  sums.set(0, g.dw);
  sums.set(1, g.du);
  if (g.dw || g.du) add_shares(ctx, "wkv4.backward", args.shares, shares, 2, width, sums);
}

}  // namespace
}  // namespace wkv4

void wkv4_backward(const Wkv4Backward& g, Context& ctx) {
  with_type(g.forward.k.dtype, "wkv4.backward",
            [&](auto type) { wkv4::backward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
