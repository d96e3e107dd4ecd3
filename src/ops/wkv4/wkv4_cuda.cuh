// What the kernels of WKV-4 on the GPU share: scaled states, and how those before a warp's rows are
// found. Included by wkv4_cuda.cu and wkv4_backward_cuda.cu only.
//
// A block goes through its sequences in rounds (core/cuda/walk.cuh), with the channels of one warp
// (core/cuda/rows.cuh). In a round each warp has a tile of kTile rows, which were copied to shared
// memory while the round before was computed:
//   1. each warp finds what its tile adds to the state, starting from nothing;
//   2. the block adds these up, so that each warp knows the state before its tile;
//   3. each warp walks through its tile.
// For few long sequences the blocks of a cluster share a round: what a block's rows add to the
// state is written into the others' shared memory. The backward is the same, from the end, with the
// gradient of the state. It starts from states before each tile that the forward kept.
//
// In a plain round, the usual case, all is in one scale, 2^scale, which follows the size of the
// state from round to round: sums need no running maximum. Tiles that do not fit are computed
// carefully, with the running maximum, from row to row.
//
// In here exponents count powers of 2: w, u, k and p are multiplied by log2(e) when they are read.
// Of two exponentials 2^(x - max(x, y)), 2^(y - max(x, y)) one is always 1, so one serves both.
#pragma once

#include "core/cuda/rows.cuh"
#include "core/cuda/walk.cuh"
#include "ops/wkv4/wkv4.h"

namespace rookery::cuda::wkv4 {

constexpr int kTile = static_cast<int>(kWkv4DeviceTile);  // rows of a warp in a round
using Rows = WarpRows<kTile>;

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kEmpty = static_cast<float>(kWkv4EmptyExponent);
// A decay below this is this: sums of exponents stay finite, and it is 0 all the same.
constexpr float kLowestDecay = -1e30f;
// What keeps sums in one scale far from the ends of float32: how far k may lie above and below it,
// how far a state, and the size of u.
constexpr float kAbove = 40.0f, kBelow = 60.0f, kBonus = 30.0f;

// A tile of fewer rows goes on with the last k: what is computed from it then is finite, and not
// used, or multiplied by a gradient of zero.
__device__ __forceinline__ void repeat_last(int count, uint32_t (&k)[kTile]) {
#pragma unroll
  for (int i = 1; i < kTile; ++i) {
    if (i >= count) k[i] = k[i - 1];
  }
}

// (a, b) 2^p of a lane's channels: a state, or the gradient of one.
template <class T>
struct Scaled {
  float a[kWordOf<T>], b[kWordOf<T>], p[kWordOf<T>];

  __device__ Scaled() {
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) a[j] = b[j] = 0.0f, p[j] = kEmpty;
  }
};
// One for each lane, in shared memory.
template <class T>
struct SharedScaled {
  Pack<float, 2 * kWordOf<T>> sums[kWarp];  // a, b
  Pack<float, kWordOf<T>> p[kWarp];

  __device__ void put(const Lane<T>& lane, const Scaled<T>& s) {
    float both[2 * kWordOf<T>];
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) both[j] = s.a[j], both[kWordOf<T> + j] = s.b[j];
    store_pack(sums[lane.id].values, both);
    store_pack(p[lane.id].values, s.p);
  }
  // To the block of that rank, which waits for the arrival of kBytes.
  static constexpr int kBytes = 3 * kWordOf<T> * static_cast<int>(sizeof(float)) * kWarp;
  __device__ void send(const Lane<T>& lane, const Scaled<T>& s, Arrivals& arrivals, int rank) {
    float both[2 * kWordOf<T>];
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) both[j] = s.a[j], both[kWordOf<T> + j] = s.b[j];
    arrivals.send(both, sums[lane.id].values, rank);
    arrivals.send(s.p, p[lane.id].values, rank);
  }
  // `p` only when it is asked for.
  __device__ Scaled<T> get(const Lane<T>& lane, bool with_p) const {
    Scaled<T> s;
    float both[2 * kWordOf<T>];
    load_pack(sums[lane.id].values, both);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) s.a[j] = both[j], s.b[j] = both[kWordOf<T> + j];
    if (with_p) load_pack(p[lane.id].values, s.p);
    return s;
  }
};

// 2^(x - max(x, y)) and 2^(y - max(x, y)).
struct ScaledPair {
  float maximum, x, y;
};
__device__ __forceinline__ ScaledPair scale_pair(float x, float y) {
  const float difference = x - y, smaller = exp2_fast(-fabsf(difference));
  return {fmaxf(x, y), difference >= 0.0f ? 1.0f : smaller, difference >= 0.0f ? smaller : 1.0f};
}
// 2^(times w) x + y.
template <class T>
__device__ __forceinline__ Scaled<T> combine(const Scaled<T>& x, const float (&w)[kWordOf<T>],
                                             int times, const Scaled<T>& y) {
  Scaled<T> z;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const ScaledPair e = scale_pair(fmaf(static_cast<float>(times), w[j], x.p[j]), y.p[j]);
    z.a[j] = fmaf(e.x, x.a[j], e.y * y.a[j]);
    z.b[j] = fmaf(e.x, x.b[j], e.y * y.b[j]);
    z.p[j] = e.maximum;
  }
  return z;
}
// The same when all have one scale, which is y's p. Of w here: 2^(times w).
template <class T>
__device__ __forceinline__ void add_decayed(const float (&decay)[kWordOf<T>], const Scaled<T>& y,
                                            Scaled<T>& x) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    x.a[j] = fmaf(decay[j], x.a[j], y.a[j]);
    x.b[j] = fmaf(decay[j], x.b[j], y.b[j]);
  }
}
// Into the scale 2^scale.
template <class T>
__device__ __forceinline__ void rescale(const float (&scale)[kWordOf<T>], Scaled<T>& s) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    const float factor = exp2_fast(s.p[j] - scale[j]);
    s.a[j] *= factor, s.b[j] *= factor, s.p[j] = scale[j];
  }
}
// Whether x 2^p is not too far above 2^scale.
template <class T>
__device__ __forceinline__ bool fits_under(const float (&p)[kWordOf<T>],
                                           const float (&scale)[kWordOf<T>]) {
  bool fits = true;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) fits = fits && p[j] - scale[j] <= kAbove;
  return fits;
}
// The state after a row, channel j.
template <class T>
__device__ __forceinline__ void advance(Scaled<T>& s, int j, float w, float k, float v) {
  const ScaledPair e = scale_pair(s.p[j] + w, k);
  s.a[j] = fmaf(e.x, s.a[j], e.y * v);
  s.b[j] = fmaf(e.x, s.b[j], e.y);
  s.p[j] = e.maximum;
}

template <class T>
struct ForwardArgs {
  const float *w, *u;
  const T *k, *v;
  T* y;
  DeviceSequences sequences;
  DeviceState a_in, b_in, p_in, a_out, b_out, p_out;
  float* saved;
  int rows, width;
  int range;  // rows: a block, or cluster, has the sequences that start in its own

  ForwardArgs(const Wkv4Forward& g, int64_t range)
      : w(static_cast<const float*>(g.w.data)),
        u(static_cast<const float*>(g.u.data)),
        k(static_cast<const T*>(g.k.data)),
        v(static_cast<const T*>(g.v.data)),
        y(static_cast<T*>(g.y.data)),
        sequences(g.sequences),
        a_in(g.a_in),
        b_in(g.b_in),
        p_in(g.p_in),
        a_out(g.a_out),
        b_out(g.b_out),
        p_out(g.p_out),
        saved(static_cast<float*>(g.segment_states.data)),
        rows(static_cast<int>(g.k.rows())),
        width(static_cast<int>(g.w.count())),
        range(static_cast<int>(range)) {}
};

// u as an exponent.
template <class T>
__device__ __forceinline__ void load_bonus(const ForwardArgs<T>& g, const Lane<T>& lane,
                                           float (&u)[kWordOf<T>]) {
  load_floats(g.u, lane, u);
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) u[j] *= kLog2E;
}

// A lane's decay and bonus.
template <class T>
struct Channels {
  float w[kWordOf<T>];  // as an exponent
  float decay[kWordOf<T>],
      bonus[kWordOf<T>];  // 2^w, 2^u; no number where u does not allow one scale

  __device__ Channels(const ForwardArgs<T>& g, const Lane<T>& lane) {
    load_floats(g.w, lane, w);
    float u[kWordOf<T>];
    load_bonus(g, lane, u);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      w[j] *= kLog2E;
      if (w[j] < kLowestDecay) w[j] = kLowestDecay;
      decay[j] = exp2_fast(w[j]);
      bonus[j] = fabsf(u[j]) <= kBonus ? exp2_fast(u[j]) : __int_as_float(0x7fffffff);
    }
  }
  __device__ bool allow_one_scale() const {
    bool allow = true;
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) allow = allow && !isnan(bonus[j]);
    return allow;
  }
  // 2^(times w).
  __device__ void decay_over(int times, float (&x)[kWordOf<T>]) const {
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) x[j] = exp2_fast(static_cast<float>(times) * w[j]);
  }
};

// The state that a sequence starts from.
template <class T>
__device__ __forceinline__ Scaled<T> state_before(const ForwardArgs<T>& g, int sequence,
                                                  const Lane<T>& lane) {
  Scaled<T> s;
  const int64_t slot = g.a_in.data != nullptr ? g.sequences.slot_in[sequence] : -1;
  if (slot >= 0) {
    load_floats(&g.a_in.at(slot, 0), lane, s.a);
    load_floats(&g.b_in.at(slot, 0), lane, s.b);
    load_floats(&g.p_in.at(slot, 0), lane, s.p);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) s.p[j] *= kLog2E;
  }
  return s;
}
// The scale of a round that starts from that exponent.
template <class T>
__device__ __forceinline__ void choose_scale(const float (&p)[kWordOf<T>],
                                             float (&scale)[kWordOf<T>]) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) scale[j] = p[j] > 0.1f * kEmpty ? p[j] : 0.0f;
}
// Whether e^k of a tile can be in that scale.
template <class T>
__device__ __forceinline__ bool fits_in(const uint32_t (&k)[kTile],
                                        const float (&scale)[kWordOf<T>]) {
  uint32_t most = k[0], least = k[0];
#pragma unroll
  for (int i = 1; i < kTile; ++i) {
    most = maximum<T>(most, k[i]);
    least = minimum<T>(least, k[i]);
  }
  float top[kWordOf<T>], bottom[kWordOf<T>];
  unpack(most, top), unpack(least, bottom);
  bool fits = true;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    fits = fits && top[j] * kLog2E - scale[j] <= kAbove && scale[j] - bottom[j] * kLog2E <= kBelow;
  }
  return fits;
}
// e^k of a tile.
template <class T>
__device__ __forceinline__ void exponentials(const uint32_t (&k)[kTile],
                                             const float (&scale)[kWordOf<T>],
                                             float (&e)[kTile][kWordOf<T>]) {
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float kt[kWordOf<T>];
    unpack(k[i], kt);
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) e[i][j] = exp2_fast(fmaf(kt[j], kLog2E, -scale[j]));
  }
}

// States before tiles: [rows / kTile, 3, width]. A sequence's first tile has none: its state is
// state_before. So no two tiles start in the same kTile rows.
template <class T>
__device__ __forceinline__ void save_state(const ForwardArgs<T>& g, int row, const Lane<T>& lane,
                                           const Scaled<T>& s) {
  float* to = g.saved + int64_t{row / kTile} * 3 * g.width;
  store_floats(to, lane, s.a);
  store_floats(to + g.width, lane, s.b);
  store_floats(to + 2 * g.width, lane, s.p);
}

// What the warps of a block tell each other in a round; twice, for the reason of ClusterParts.
template <class T, int kWarps>
struct WarpParts {
  SharedScaled<T> of_warp[2][kWarps];
};

// Step 2, in three functions. Their words are those of the forward (kStep 1), where states are
// carried to later rows; with kStep -1 gradients are carried to earlier rows, and "before" means
// later rows. What a round's functions have in common:
template <int kStep, class T>
struct RoundOf {
  const Cluster& cluster;
  const Rounds<kStep>& now;
  const Channels<T>& channels;
  const Lane<T>& lane;
  const float (&scale)[kWordOf<T>];  // 2^scale is the scale of what is plain
  int number;                        // of the block's rounds, from 0

  __device__ int buffer() const { return number & 1; }
  // The nth of `count` in the order in which states are carried.
  static __device__ int nth(int n, int count) { return kStep > 0 ? n : count - 1 - n; }
};
// What the tiles of a block's warps add to the state, starting from nothing.
template <class T>
struct BlockSums {
  Scaled<T> before, all;          // those before this warp's, and all of them
  int rows_before = 0, rows = 0;  // of them
};

// Adds up what each warp's tile adds, `part`. `plain`: whether the part is in the scale 2^scale;
// comes back whether all of the block are, and so the sums.
template <int kStep, int kWarps, class T>
__device__ __forceinline__ BlockSums<T> add_warps(const RoundOf<kStep, T>& round,
                                                  const Scaled<T>& part,
                                                  WarpParts<T, kWarps>& shared, bool& plain) {
  constexpr int kRows = kWarps * kTile;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  SharedScaled<T>* const parts = shared.of_warp[round.buffer()];
  parts[warp].put(round.lane, part);
  plain = __syncthreads_and(plain) != 0;
  const int offset = round.cluster.rank * kRows;
  BlockSums<T> sums;
  sums.rows = round.now.rows_at(offset, kRows);
  if (plain) {
    float decay[kWordOf<T>];
    round.channels.decay_over(kTile, decay);
#pragma unroll
    for (int n = 0; n < kWarps; ++n) {
      const int i = round.nth(n, kWarps);
      if (i == warp) sums.before = sums.all;
      if (i * kTile < sums.rows) add_decayed(decay, parts[i].get(round.lane, false), sums.all);
    }
    sums.rows_before =
        kStep > 0 ? min(warp * kTile, sums.rows) : max(sums.rows - (warp + 1) * kTile, 0);
  } else {
#pragma unroll 1
    for (int n = 0, rows = 0; n < kWarps; ++n) {
      const int i = round.nth(n, kWarps), count = round.now.rows_at(offset + i * kTile, kTile);
      if (i == warp) sums.before = sums.all, sums.rows_before = rows;
      sums.all = combine(sums.all, round.channels.w, count, parts[i].get(round.lane, true));
      rows += count;
    }
  }
  return sums;
}

// In a cluster of several blocks: gives the others what this block adds, and waits for what they
// add. `plain` comes back whether all blocks are; where this one alone is, its sums get their
// exponent.
template <int kWarps, int kStep, class T>
__device__ __forceinline__ void share_sums(const RoundOf<kStep, T>& round,
                                           ClusterParts<SharedScaled<T>>& shared,
                                           BlockSums<T>& sums, bool& plain) {
  const Cluster& cluster = round.cluster;
  if (cluster.size == 1) return;
  // An exponent that no other has says that the block's is the scale: in all lanes, or in none.
  constexpr float kPlain = __builtin_inff(), kLargest = 3e38f;
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    sums.all.p[j] = plain ? kPlain : fminf(sums.all.p[j], kLargest);
  }
  SharedScaled<T>* const blocks = shared.of_block[round.buffer()];
  Arrivals& arrivals = shared.arrivals[round.buffer()];
  if (threadIdx.x == 0) arrivals.expect(cluster.size * SharedScaled<T>::kBytes);
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < cluster.size; r += kWarps) {
    blocks[cluster.rank].send(round.lane, sums.all, arrivals, r);
  }
  arrivals.wait(round.number / 2);
  bool all = true;
#pragma unroll 4
  for (int r = 0; r < cluster.size; ++r) all &= blocks[r].p[round.lane.id].values[0] == kPlain;
  if (plain && !all) {
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) sums.before.p[j] = round.scale[j];
  }
  plain = all;
}

// From `carry`, the state before the round, the state before this warp's tile. Moves `carry` to the
// next round. When all is plain, so is what is returned.
template <int kWarps, int kStep, class T>
__device__ __forceinline__ Scaled<T> carry_over(const RoundOf<kStep, T>& round,
                                                const ClusterParts<SharedScaled<T>>& shared,
                                                const BlockSums<T>& sums, bool plain,
                                                Scaled<T>& carry) {
  constexpr int kRows = kWarps * kTile;
  const Cluster& cluster = round.cluster;
  const Rounds<kStep>& now = round.now;
  const SharedScaled<T>* const blocks = shared.of_block[round.buffer()];
  Scaled<T> base = carry;  // before the block
  if (plain) {
    rescale(round.scale, carry);
    float decay[kWordOf<T>];
    const auto across = [&](int from, int to) {
#pragma unroll 4
      for (int n = from; n < to; ++n) {
        add_decayed(decay, blocks[round.nth(n, cluster.size)].get(round.lane, false), carry);
      }
    };
    if (cluster.size == 1) {
      base = carry;
      round.channels.decay_over(sums.rows, decay);
      add_decayed(decay, sums.all, carry);
    } else if (now.row + now.size <= now.end) {
      round.channels.decay_over(kRows, decay);
      across(0, round.nth(cluster.rank, cluster.size));
      base = carry;
      across(round.nth(cluster.rank, cluster.size), cluster.size);
    } else {
#pragma unroll 1
      for (int n = 0; n < cluster.size; ++n) {
        const int r = round.nth(n, cluster.size);
        if (r == cluster.rank) base = carry;
        round.channels.decay_over(now.rows_at(r * kRows, kRows), decay);
        across(n, n + 1);
      }
    }
    round.channels.decay_over(sums.rows_before, decay);
    add_decayed(decay, sums.before, base);
    return base;
  }
#pragma unroll 1
  for (int n = 0; n < cluster.size; ++n) {
    const int r = round.nth(n, cluster.size);
    if (r == cluster.rank) base = carry;
    Scaled<T> block = sums.all;
    if (cluster.size > 1) {
      block = blocks[r].get(round.lane, true);
#pragma unroll
      for (int j = 0; j < kWordOf<T>; ++j) {
        block.p[j] = isinf(block.p[j]) ? round.scale[j] : block.p[j];
      }
    }
    carry = combine(carry, round.channels.w, now.rows_at(r * kRows, kRows), block);
  }
  return combine(base, round.channels.w, sums.rows_before, sums.before);
}

}  // namespace rookery::cuda::wkv4
