// What the kernels of WKV-4 on the GPU share: rows in shared memory, scaled states, and the walk
// over sequences. Included by wkv4_cuda.cu and wkv4_backward_cuda.cu only.
//
// Rows are read once. A block takes the sequences that start in its range of rows, one after the
// other, and the channels of one warp, a word of each row for each lane. It goes through a sequence
// in rounds; in a round each warp has a tile of kTile rows, whose words were copied to shared
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

#include <cuda_pipeline.h>

#include <algorithm>

#include "core/cuda/cluster.cuh"
#include "core/cuda/launch.cuh"
#include "ops/wkv4/wkv4.h"

namespace rookery::cuda::wkv4 {

constexpr int kTile = static_cast<int>(kWkv4DeviceTile);  // rows of a warp in a round
// Of the kernels in which a thread takes one channel.
constexpr int kWalkThreads = 128;

// A lane has a word of each row: two neighbouring channels in bfloat16, one in float32.
template <class T>
constexpr int kPer = 4 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kChannels = kPer<T>* kWarp;
using Rows = uint32_t[kTile][kWarp];  // a warp's rows in shared memory

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kEmpty = static_cast<float>(kWkv4EmptyExponent);
// A decay below this is this: sums of exponents stay finite, and it is 0 all the same.
constexpr float kLowestDecay = -1e30f;
constexpr unsigned kAllLanes = 0xffffffffu;
// What keeps sums in one scale far from the ends of float32: how far k may lie above and below it,
// how far a state, and the size of u.
constexpr float kAbove = 40.0f, kBelow = 60.0f, kBonus = 30.0f;

// 2^x, to 2 units in the last place; 0 where that is denormal.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// To 1 unit in the last place.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The channels of a word.
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[2]) {
  x[0] = __uint_as_float(word << 16);
  x[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void unpack(uint32_t word, float (&x)[1]) {
  x[0] = __uint_as_float(word);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[2]) {
  return __bfloat16_as_ushort(from_float<bfloat16>(x[0])) |
         (static_cast<uint32_t>(__bfloat16_as_ushort(from_float<bfloat16>(x[1]))) << 16);
}
__device__ __forceinline__ uint32_t pack(const float (&x)[1]) { return __float_as_uint(x[0]); }
template <class T>
__device__ __forceinline__ uint32_t maximum(uint32_t x, uint32_t y) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(fmaxf(__uint_as_float(x), __uint_as_float(y)));
  } else {
    uint32_t z;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
    return z;
  }
}
template <class T>
__device__ __forceinline__ uint32_t minimum(uint32_t x, uint32_t y) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(fminf(__uint_as_float(x), __uint_as_float(y)));
  } else {
    uint32_t z;
    asm("min.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
    return z;
  }
}

// A lane's channels, c and those after it; those at width or beyond are not there.
template <class T>
struct Lane {
  int id, c;
  bool in[kPer<T>];
  explicit __device__ Lane(int width)
      : id(static_cast<int>(threadIdx.x) % kWarp),
        c(static_cast<int>(blockIdx.x) * kChannels<T> + kPer<T> * id) {
    for (int j = 0; j < kPer<T>; ++j) in[j] = c + j < width;
  }
};

// A word of a row in memory. kAligned: rows begin at multiples of 16 bytes and words are whole.
template <bool kAligned, class T>
__device__ __forceinline__ uint32_t load_word(const T* p, const Lane<T>& lane) {
  if constexpr (kAligned) {
    return lane.in[0] ? *reinterpret_cast<const uint32_t*>(p) : 0;
  } else {
    float x[kPer<T>];
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) x[j] = lane.in[j] ? to_float(p[j]) : 0.0f;
    return pack(x);
  }
}
// Where lane.in[0] only.
template <bool kAligned, class T>
__device__ __forceinline__ void store_word(T* p, const Lane<T>& lane, const float (&x)[kPer<T>]) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint32_t*>(p) = pack(x);
  } else {
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) {
      if (lane.in[j]) p[j] = from_float<T>(x[j]);
    }
  }
}
// A lane's channels of a row of float32, 0 where it has none; any address.
template <class T>
__device__ __forceinline__ void load_floats(const float* row, const Lane<T>& lane,
                                            float (&x)[kPer<T>]) {
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) x[j] = lane.in[j] ? row[lane.c + j] : 0.0f;
}
template <class T>
__device__ __forceinline__ void store_floats(float* row, const Lane<T>& lane,
                                             const float (&x)[kPer<T>]) {
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) {
    if (lane.in[j]) row[lane.c + j] = x[j];
  }
}

// Brings the first `count` of a warp's rows to shared memory, from `p`, the first element of the
// block's channels; zeros for the others. kAligned: has begun to; after wait_for_rows() they are
// there.
template <bool kAligned, class T>
__device__ __forceinline__ void fetch_rows(const T* p, int width, int count, const Lane<T>& lane,
                                           Rows& to) {
  if constexpr (kAligned) {
    constexpr int kPieces = 8, kStep = kWarp / kPieces;  // 16 bytes each; rows at a time
    const int first = lane.id / kPieces, piece = lane.id % kPieces;
    const int c = piece * (16 / static_cast<int>(sizeof(T)));
    const int rows = static_cast<int>(blockIdx.x) * kChannels<T> + c < width ? count - first : 0;
    const T* from = p + int64_t{first} * width + c;
#pragma unroll
    for (int i = 0; i < kTile; i += kStep) {
      __pipeline_memcpy_async(&to[first + i][4 * piece], from, 16, i < rows ? 0 : 16);
      from += kStep * width;
    }
  } else {
    uint32_t words[kTile];
    const T* from = p + kPer<T> * lane.id;
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      words[i] = i < count ? load_word<false>(from + int64_t{width} * i, lane) : 0;
    }
#pragma unroll
    for (int i = 0; i < kTile; ++i) to[i][lane.id] = words[i];
  }
}
__device__ __forceinline__ void wait_for_rows() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncwarp();
}
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
  float a[kPer<T>], b[kPer<T>], p[kPer<T>];

  __device__ Scaled() {
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) a[j] = b[j] = 0.0f, p[j] = kEmpty;
  }
};
// One for each lane, in shared memory.
template <class T>
struct SharedScaled {
  Pack<float, 2 * kPer<T>> sums[kWarp];  // a, b
  Pack<float, kPer<T>> p[kWarp];

  __device__ void put(const Lane<T>& lane, const Scaled<T>& s) {
    float both[2 * kPer<T>];
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) both[j] = s.a[j], both[kPer<T> + j] = s.b[j];
    store_pack(sums[lane.id].values, both);
    store_pack(p[lane.id].values, s.p);
  }
  // To the block of that rank, which waits for the arrival of kBytes.
  static constexpr int kBytes = 3 * kPer<T> * static_cast<int>(sizeof(float)) * kWarp;
  __device__ void send(const Lane<T>& lane, const Scaled<T>& s, Arrivals& arrivals, int rank) {
    float both[2 * kPer<T>];
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) both[j] = s.a[j], both[kPer<T> + j] = s.b[j];
    arrivals.send(both, sums[lane.id].values, rank);
    arrivals.send(s.p, p[lane.id].values, rank);
  }
  // `p` only when it is asked for.
  __device__ Scaled<T> get(const Lane<T>& lane, bool with_p) const {
    Scaled<T> s;
    float both[2 * kPer<T>];
    load_pack(sums[lane.id].values, both);
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) s.a[j] = both[j], s.b[j] = both[kPer<T> + j];
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
__device__ __forceinline__ Scaled<T> combine(const Scaled<T>& x, const float (&w)[kPer<T>],
                                             int times, const Scaled<T>& y) {
  Scaled<T> z;
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) {
    const ScaledPair e = scale_pair(fmaf(static_cast<float>(times), w[j], x.p[j]), y.p[j]);
    z.a[j] = fmaf(e.x, x.a[j], e.y * y.a[j]);
    z.b[j] = fmaf(e.x, x.b[j], e.y * y.b[j]);
    z.p[j] = e.maximum;
  }
  return z;
}
// The same when all have one scale, which is y's p. Of w here: 2^(times w).
template <class T>
__device__ __forceinline__ void add_decayed(const float (&decay)[kPer<T>], const Scaled<T>& y,
                                            Scaled<T>& x) {
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) {
    x.a[j] = fmaf(decay[j], x.a[j], y.a[j]);
    x.b[j] = fmaf(decay[j], x.b[j], y.b[j]);
  }
}
// Into the scale 2^scale.
template <class T>
__device__ __forceinline__ void rescale(const float (&scale)[kPer<T>], Scaled<T>& s) {
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) {
    const float factor = exp2_fast(s.p[j] - scale[j]);
    s.a[j] *= factor, s.b[j] *= factor, s.p[j] = scale[j];
  }
}
// Whether x 2^p is not too far above 2^scale.
template <class T>
__device__ __forceinline__ bool fits_under(const float (&p)[kPer<T>],
                                           const float (&scale)[kPer<T>]) {
  bool fits = true;
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) fits = fits && p[j] - scale[j] <= kAbove;
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
                                           float (&u)[kPer<T>]) {
  load_floats(g.u, lane, u);
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) u[j] *= kLog2E;
}

// A lane's decay and bonus.
template <class T>
struct Channels {
  float w[kPer<T>];                      // as an exponent
  float decay[kPer<T>], bonus[kPer<T>];  // 2^w, 2^u; no number where u does not allow one scale

  __device__ Channels(const ForwardArgs<T>& g, const Lane<T>& lane) {
    load_floats(g.w, lane, w);
    float u[kPer<T>];
    load_bonus(g, lane, u);
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) {
      w[j] *= kLog2E;
      if (w[j] < kLowestDecay) w[j] = kLowestDecay;
      decay[j] = exp2_fast(w[j]);
      bonus[j] = fabsf(u[j]) <= kBonus ? exp2_fast(u[j]) : __int_as_float(0x7fffffff);
    }
  }
  __device__ bool allow_one_scale() const {
    bool allow = true;
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) allow = allow && !isnan(bonus[j]);
    return allow;
  }
  // 2^(times w).
  __device__ void decay_over(int times, float (&x)[kPer<T>]) const {
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) x[j] = exp2_fast(static_cast<float>(times) * w[j]);
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
    for (int j = 0; j < kPer<T>; ++j) s.p[j] *= kLog2E;
  }
  return s;
}
// The scale of a round that starts from that exponent.
template <class T>
__device__ __forceinline__ void choose_scale(const float (&p)[kPer<T>], float (&scale)[kPer<T>]) {
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) scale[j] = p[j] > 0.1f * kEmpty ? p[j] : 0.0f;
}
// Whether e^k of a tile can be in that scale.
template <class T>
__device__ __forceinline__ bool fits_in(const uint32_t (&k)[kTile], const float (&scale)[kPer<T>]) {
  uint32_t most = k[0], least = k[0];
#pragma unroll
  for (int i = 1; i < kTile; ++i) {
    most = maximum<T>(most, k[i]);
    least = minimum<T>(least, k[i]);
  }
  float top[kPer<T>], bottom[kPer<T>];
  unpack(most, top), unpack(least, bottom);
  bool fits = true;
#pragma unroll
  for (int j = 0; j < kPer<T>; ++j) {
    fits = fits && top[j] * kLog2E - scale[j] <= kAbove && scale[j] - bottom[j] * kLog2E <= kBelow;
  }
  return fits;
}
// e^k of a tile.
template <class T>
__device__ __forceinline__ void exponentials(const uint32_t (&k)[kTile],
                                             const float (&scale)[kPer<T>],
                                             float (&e)[kTile][kPer<T>]) {
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float kt[kPer<T>];
    unpack(k[i], kt);
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) e[i][j] = exp2_fast(fmaf(kt[j], kLog2E, -scale[j]));
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

// A block's way through the rounds of its sequences, which are taken in order, with their rounds
// from the first on (kStep 1) or the last on (-1). All threads of a block, or cluster, agree.
template <int kStep>
struct Rounds {
  const DeviceSequences& sequences;
  int last;  // where the range ends
  int size;  // rows of a round
  int sequence, begin, end;
  int row;             // where the round begins
  bool there = false;  // whether there is one

  // The range of that index.
  template <class T>
  __device__ Rounds(const ForwardArgs<T>& g, int index, int size)
      : sequences(g.sequences), last(min((index + 1) * g.range, g.rows)), size(size) {
    int start = index * g.range;
    if (start >= last) return;
    const int before = sequences.of_row[start];
    if (sequences.offsets[before] < start) {
      start = static_cast<int>(sequences.offsets[before + 1]);
    }
    enter(start);
  }
  __device__ void enter(int start) {
    there = start < last;
    if (!there) return;
    sequence = sequences.of_row[start];
    begin = start, end = static_cast<int>(sequences.offsets[sequence + 1]);
    row = kStep > 0 ? begin : begin + (end - 1 - begin) / size * size;
  }
  __device__ void advance() {
    row += kStep * size;
    if (kStep > 0 ? row >= end : row < begin) enter(end);
  }
  __device__ bool at_begin() const { return row == begin; }
  __device__ bool at_end() const { return row + size >= end; }
  // Rows of the round from its row `offset` on, `most` of them at most.
  __device__ int rows_at(int offset, int most) const {
    return min(max(end - row - offset, 0), most);
  }
};

// What a block's warps, and a cluster's blocks, tell each other in a round. Twice: a warp may be in
// the next round while another still reads that of this one.
template <class T, int kWarps>
struct SharedParts {
  SharedScaled<T> of_warp[2][kWarps];
};
template <class T>
struct SharedTotals {
  SharedScaled<T> of_block[2][kLargestCluster];
  Arrivals arrivals[2];

  // By all threads, before the first round.
  __device__ void init(const Cluster& cluster) {
    if (cluster.size == 1) return;
    if (threadIdx.x == 0) arrivals[0].init(), arrivals[1].init();
    cluster.meet();
  }
};

// Step 2: from what this warp's tile adds, `part`, and the state before the round, `carry`: the
// state before the tile (kStep 1), or the gradient after it (-1; "before" then means later rows).
// Moves `carry` to the next round, which is the `round`th from 0. `plain`: whether the part is in
// the scale 2^scale; it comes back whether all of the round are, and so what is returned is.
template <int kStep, int kWarps, class T>
__device__ __forceinline__ Scaled<T> scan_round(
    const Cluster& cluster, const Rounds<kStep>& now, const Channels<T>& channels, int round,
    const Lane<T>& lane, const float (&scale)[kPer<T>], const Scaled<T>& part,
    SharedParts<T, kWarps>& shared, SharedTotals<T>& totals, bool& plain, Scaled<T>& carry) {
  constexpr int kRows = kWarps * kTile;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, buffer = round & 1;
  const auto nth = [](int i, int count) { return kStep > 0 ? i : count - 1 - i; };
  SharedScaled<T>* const parts = shared.of_warp[buffer];
  parts[warp].put(lane, part);
  plain = __syncthreads_and(plain) != 0;
  // Within the block, from nothing.
  const int offset = cluster.rank * kRows, block_rows = now.rows_at(offset, kRows);
  Scaled<T> before, total;
  int rows_before = 0;
  if (plain) {
    float decay[kPer<T>];
    channels.decay_over(kTile, decay);
#pragma unroll
    for (int n = 0; n < kWarps; ++n) {
      const int i = nth(n, kWarps);
      if (i == warp) before = total;
      if (i * kTile < block_rows) add_decayed(decay, parts[i].get(lane, false), total);
    }
    rows_before =
        kStep > 0 ? min(warp * kTile, block_rows) : max(block_rows - (warp + 1) * kTile, 0);
  } else {
#pragma unroll 1
    for (int n = 0, rows = 0; n < kWarps; ++n) {
      const int i = nth(n, kWarps), count = now.rows_at(offset + i * kTile, kTile);
      if (i == warp) before = total, rows_before = rows;
      total = combine(total, channels.w, count, parts[i].get(lane, true));
      rows += count;
    }
  }
  SharedScaled<T>* const blocks = totals.of_block[buffer];
  if (cluster.size > 1) {
    // An exponent that no other has says that the block's is the scale: in all lanes, or in none.
    constexpr float kPlain = __builtin_inff(), kLargest = 3e38f;
#pragma unroll
    for (int j = 0; j < kPer<T>; ++j) total.p[j] = plain ? kPlain : fminf(total.p[j], kLargest);
    Arrivals& arrivals = totals.arrivals[buffer];
    if (threadIdx.x == 0) arrivals.expect(cluster.size * SharedScaled<T>::kBytes);
    for (int r = warp; r < cluster.size; r += kWarps) {
      blocks[cluster.rank].send(lane, total, arrivals, r);
    }
    arrivals.wait(round / 2);
    bool all = true;
#pragma unroll 4
    for (int r = 0; r < cluster.size; ++r) all &= blocks[r].p[lane.id].values[0] == kPlain;
    if (plain && !all) {
#pragma unroll
      for (int j = 0; j < kPer<T>; ++j) before.p[j] = scale[j];
    }
    plain = all;
  }
  Scaled<T> base = carry;
  if (plain) {
    rescale(scale, carry);
    float decay[kPer<T>];
    const auto across = [&](int from, int to) {
#pragma unroll 4
      for (int n = from; n < to; ++n) {
        add_decayed(decay, blocks[nth(n, cluster.size)].get(lane, false), carry);
      }
    };
    if (cluster.size == 1) {
      base = carry;
      channels.decay_over(block_rows, decay);
      add_decayed(decay, total, carry);
    } else if (now.row + now.size <= now.end) {
      channels.decay_over(kRows, decay);
      across(0, nth(cluster.rank, cluster.size));
      base = carry;
      across(nth(cluster.rank, cluster.size), cluster.size);
    } else {
#pragma unroll 1
      for (int n = 0; n < cluster.size; ++n) {
        const int r = nth(n, cluster.size);
        if (r == cluster.rank) base = carry;
        channels.decay_over(now.rows_at(r * kRows, kRows), decay);
        across(n, n + 1);
      }
    }
    channels.decay_over(rows_before, decay);
    add_decayed(decay, before, base);
    return base;
  }
#pragma unroll 1
  for (int n = 0; n < cluster.size; ++n) {
    const int r = nth(n, cluster.size);
    if (r == cluster.rank) base = carry;
    Scaled<T> block = total;
    if (cluster.size > 1) {
      block = blocks[r].get(lane, true);
#pragma unroll
      for (int j = 0; j < kPer<T>; ++j) block.p[j] = isinf(block.p[j]) ? scale[j] : block.p[j];
    }
    carry = combine(carry, channels.w, now.rows_at(r * kRows, kRows), block);
  }
  return combine(base, channels.w, rows_before, before);
}

// No sequence has more rows.
inline int64_t longest(const Sequences& sequences) {
  int64_t rows = sequences.window;
  if (rows > 0) return rows;
  for (int64_t s = 0; s < sequences.count; ++s) {
    rows = std::max(rows, sequences.offsets[s + 1] - sequences.offsets[s]);
  }
  return rows;
}

// Of a launch: how sequences are spread over blocks, and how many blocks share one.
struct Spread {
  int64_t range;  // rows
  int cluster = 1;
  dim3 grid;

  // A block takes `round` rows in a round. `at_once`: of clusters_at_once.
  Spread(const Wkv4Forward& g, int channels, int round,
         const std::array<int, kLargestCluster + 1>& at_once) {
    const int64_t rows = g.k.rows(), count = std::max<int64_t>(g.sequences.count, 1);
    // When all are of one length, each has a range of its own. A captured launch serves other
    // sequences too: wherever they start, somebody has them.
    constexpr int64_t kLeast = 64, kMost = 65535 / kLargestCluster;
    const int64_t length = g.sequences.window > 0 ? g.sequences.window : ceil_div(rows, count);
    range = std::max({length, kLeast, ceil_div(rows, kMost)});
    const int64_t ranges = ceil_div(rows, range), groups = ceil_div(g.w.count(), channels);
    // The most blocks that share a sequence while all still run at the same time.
    const int64_t most = longest(g.sequences);
    for (int size = 2; size <= kLargestCluster && (size - 1) * round < most; ++size) {
      if (ranges * groups <= at_once[size]) cluster = size;
    }
    grid = dim3(static_cast<unsigned>(groups), static_cast<unsigned>(ranges * cluster));
  }
};

// Rows, channels and blocks are counted with 32 bits.
inline void check_size(const Wkv4Forward& g) {
  const int64_t rows = g.k.rows(), width = g.w.count();
  check(rows < int64_t{1} << 30 && width < int64_t{1} << 28 && rows * width < int64_t{1} << 40) ||
      fail("wkv4: {} tokens of {} channels are too many for one call on the GPU", rows, width);
}

// Whether a sequence has no tokens: the kernels find sequences by their rows and do not see it.
inline bool has_empty(const Sequences& sequences) {
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.offsets[s] == sequences.offsets[s + 1]) return true;
  }
  return false;
}
inline dim3 pass_grid(int64_t width, const Sequences& sequences) {
  check(sequences.count < 65536) ||
      fail("wkv4: {} sequences, one call takes at most 65535 on the GPU", sequences.count);
  return {static_cast<unsigned>(ceil_div(width, kWalkThreads)),
          static_cast<unsigned>(sequences.count)};
}

// Whether rows of all of these begin at multiples of 16 bytes.
template <class T, class... Views>
bool are_aligned(int64_t width, const Views&... views) {
  return width * static_cast<int64_t>(sizeof(T)) % 16 == 0 && (is_aligned(views.data, 16) && ...);
}

}  // namespace rookery::cuda::wkv4
