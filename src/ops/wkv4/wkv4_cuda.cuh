// What the kernels of WKV-4 on the GPU share: rows in registers, scaled states, and the carrying of
// states over time. Included by wkv4_cuda.cu and wkv4_backward_cuda.cu only.
//
// The packed rows are cut into segments, whatever sequences lie in them; a warp owns one segment
// and 64 channels, a lane two neighbouring channels. Three launches, as the state is linear in what
// was before:
//   1. each warp finds what its segment adds to the state, starting from nothing: all of the state
//      after it when a sequence starts in it (the segment is closed then);
//   2. for each channel, from every closed segment on, states are carried to the next closed one;
//   3. each warp walks through its rows from the state before them.
// Rows are read twice; the last ones of 1 are the first ones of 3 and still in the cache. (A single
// pass, in which blocks wait for each other by decoupled look-back, reads them once. What it
// measured is in docs/performance.md: it won or lost by the shape of its blocks, and waited more
// than it read.)
//
// A warp takes a tile of rows at a time. In a fast tile, the usual case, all exponentials are in
// the scale of the tile's largest k, and nothing is rescaled between its rows; the careful form
// with a running maximum serves the others.
//
// In here exponents count powers of 2: w, u, k and p are multiplied by log2(e) when they are read.
// Of two exponentials 2^(x - max(x, y)), 2^(y - max(x, y)) one is always 1, so one serves both.
#pragma once

#include <algorithm>

#include "core/cuda/launch.cuh"
#include "ops/wkv4/wkv4.h"

namespace rookery::cuda::wkv4 {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;  // of a block; each has a segment of its own
constexpr int kChannels = 2 * kWarp;                  // of a warp
constexpr int kTile = 16;                             // rows
constexpr int kSegment = static_cast<int>(kWkv4DeviceSegment);
static_assert(kSegment % kTile == 0);
// Of the kernels in which a thread takes one channel.
constexpr int kWalkThreads = 128;

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kEmpty = static_cast<float>(kWkv4EmptyExponent);
// A decay below this is this: sums of exponents stay finite, and it is 0 all the same.
constexpr float kLowestDecay = -1e30f;
constexpr unsigned kAllLanes = 0xffffffffu;

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
// What keeps sums of exponentials in one common scale far from the ends of float32: the largest
// spread of k within a warp's rows, how far what comes from elsewhere may lie above them, and u.
constexpr float kSpread = 50.0f, kAbove = 40.0f, kBonus = 30.0f;

// Two neighbouring channels of one row, as they lie in memory: half the registers for bf16.
template <class T>
struct Raw;
template <>
struct Raw<bfloat16> {
  uint32_t bits;
  __device__ void get(float (&x)[2]) const {
    x[0] = __uint_as_float(bits << 16);
    x[1] = __uint_as_float(bits & 0xffff0000u);
  }
  static __device__ Raw maximum(Raw x, Raw y) {
    Raw z;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(z.bits) : "r"(x.bits), "r"(y.bits));
    return z;
  }
  static __device__ Raw minimum(Raw x, Raw y) {
    Raw z;
    asm("min.bf16x2 %0, %1, %2;" : "=r"(z.bits) : "r"(x.bits), "r"(y.bits));
    return z;
  }
  static __device__ Raw from(bfloat16 x, bfloat16 y) {
    return {__bfloat16_as_ushort(x) | (static_cast<uint32_t>(__bfloat16_as_ushort(y)) << 16)};
  }
};
template <>
struct alignas(8) Raw<float> {
  float x, y;
  __device__ void get(float (&to)[2]) const { to[0] = x, to[1] = y; }
  static __device__ Raw maximum(Raw p, Raw q) { return {fmaxf(p.x, q.x), fmaxf(p.y, q.y)}; }
  static __device__ Raw minimum(Raw p, Raw q) { return {fminf(p.x, q.x), fminf(p.y, q.y)}; }
  static __device__ Raw from(float x, float y) { return {x, y}; }
};

// The channels of a lane, c and c + 1, of which those at width or beyond are not there.
struct Lane {
  int c;
  bool in[2];
  __device__ Lane(int c, int width) : c(c), in{c < width, c + 1 < width} {}
};

// Row accesses. kVector: the width is even and the address a multiple of two elements.
template <bool kVector, class T>
__device__ __forceinline__ Raw<T> load_row(const T* p, const Lane& lane, bool there) {
  Raw<T> x = Raw<T>::from(from_float<T>(0.0f), from_float<T>(0.0f));
  if constexpr (kVector) {
    if (there && lane.in[0]) x = *reinterpret_cast<const Raw<T>*>(p);
  } else if (there) {
    x = Raw<T>::from(lane.in[0] ? p[0] : from_float<T>(0.0f),
                     lane.in[1] ? p[1] : from_float<T>(0.0f));
  }
  return x;
}
template <bool kVector, class T>
__device__ __forceinline__ void store_row(T* p, const Lane& lane, float x, float y) {
  if constexpr (kVector) {
    // One store: the compiler makes two of a pair of bfloat16.
    if (lane.in[0]) {
      *reinterpret_cast<Raw<T>*>(p) = Raw<T>::from(from_float<T>(x), from_float<T>(y));
    }
  } else {
    if (lane.in[0]) p[0] = from_float<T>(x);
    if (lane.in[1]) p[1] = from_float<T>(y);
  }
}
template <bool kVector, class T>
__device__ __forceinline__ void store_gradient_row(T* p, const Lane& lane, bool accumulate, float x,
                                                   float y) {
  if (accumulate) {
    float before[2];
    load_row<kVector>(p, lane, true).get(before);
    x += before[0], y += before[1];
  }
  store_row<kVector>(p, lane, x, y);
}
// A lane's two of a row of float32, 0 where it has none; any address.
__device__ __forceinline__ void load_floats(const float* row, const Lane& lane, float (&x)[2]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) x[j] = lane.in[j] ? row[lane.c + j] : 0.0f;
}
__device__ __forceinline__ void store_floats(float* row, const Lane& lane, const float (&x)[2]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    if (lane.in[j]) row[lane.c + j] = x[j];
  }
}
// In a row of kChannels floats that only this block, or only this warp, knows.
__device__ __forceinline__ void put(float* row, int lane, const float (&x)[2]) {
  reinterpret_cast<float2*>(row)[lane] = {x[0], x[1]};
}
__device__ __forceinline__ void get(const float* row, int lane, float (&x)[2]) {
  const float2 pair = reinterpret_cast<const float2*>(row)[lane];
  x[0] = pair.x, x[1] = pair.y;
}

// (a, b) 2^p of two channels: a state, or the gradient of one.
struct Scaled {
  float a[2] = {0.0f, 0.0f}, b[2] = {0.0f, 0.0f}, p[2] = {kEmpty, kEmpty};

  __device__ void put(float* rows, int lane) const {
    wkv4::put(rows, lane, a);
    wkv4::put(rows + kChannels, lane, b);
    wkv4::put(rows + 2 * kChannels, lane, p);
  }
  static __device__ Scaled get(const float* rows, int lane) {
    Scaled s;
    wkv4::get(rows, lane, s.a);
    wkv4::get(rows + kChannels, lane, s.b);
    wkv4::get(rows + 2 * kChannels, lane, s.p);
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
__device__ __forceinline__ Scaled combine(const Scaled& x, const float (&w)[2], float times,
                                          const Scaled& y) {
  Scaled z;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const ScaledPair e = scale_pair(fmaf(times, w[j], x.p[j]), y.p[j]);
    z.a[j] = fmaf(e.x, x.a[j], e.y * y.a[j]);
    z.b[j] = fmaf(e.x, x.b[j], e.y * y.b[j]);
    z.p[j] = e.maximum;
  }
  return z;
}
// The state after a row, channel j.
__device__ __forceinline__ void advance(Scaled& s, int j, float w, float k, float v) {
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
  float* segment_states;
  int rows, width;

  explicit ForwardArgs(const Wkv4Forward& g)
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
        segment_states(static_cast<float*>(g.segment_states.data)),
        rows(static_cast<int>(g.k.rows())),
        width(static_cast<int>(g.w.count())) {}
};
__device__ __forceinline__ void load_decay(const float* w, const Lane& lane, float (&x)[2]) {
  load_floats(w, lane, x);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    x[j] *= kLog2E;
    if (x[j] < kLowestDecay) x[j] = kLowestDecay;
  }
}
__device__ __forceinline__ void load_exponents(const float* row, const Lane& lane, float (&x)[2]) {
  load_floats(row, lane, x);
#pragma unroll
  for (int j = 0; j < 2; ++j) x[j] *= kLog2E;
}

// The state that a sequence starts from.
template <class T>
__device__ __forceinline__ Scaled state_before(const ForwardArgs<T>& g, int sequence,
                                               const Lane& lane) {
  Scaled s;
  const int64_t slot = g.a_in.data != nullptr ? g.sequences.slot_in[sequence] : -1;
  if (slot >= 0) {
    load_floats(&g.a_in.at(slot, 0), lane, s.a);
    load_floats(&g.b_in.at(slot, 0), lane, s.b);
    load_exponents(&g.p_in.at(slot, 0), lane, s.p);
  }
  return s;
}
template <class T>
__device__ __forceinline__ void leave_state(const ForwardArgs<T>& g, int sequence, const Lane& lane,
                                            const Scaled& s) {
  const int64_t slot = g.a_out.data != nullptr ? g.sequences.slot_out[sequence] : -1;
  if (slot < 0) return;
  const float p[2] = {s.p[0] * kLn2, s.p[1] * kLn2};
  store_floats(&g.a_out.at(slot, 0), lane, s.a);
  store_floats(&g.b_out.at(slot, 0), lane, s.b);
  store_floats(&g.p_out.at(slot, 0), lane, p);
}

// Which of a warp's rows start and end a sequence, as bits, and how many rows there are.
struct Borders {
  unsigned starts, ends;
  int count;

  // Whether borders are at the first and last row only and all rows are there: the usual case.
  __device__ bool plain(int rows) const {
    return count == rows && (starts & ~1u) == 0 && (ends & ~(1u << (rows - 1))) == 0;
  }
  __device__ bool starts_at(int i) const { return (starts >> i & 1u) != 0; }
  __device__ bool ends_at(int i) const { return (ends >> i & 1u) != 0; }
  // The last row up to i that starts a sequence, or -1.
  __device__ int last_start(int i) const { return 31 - __clz(starts & ((2u << i) - 1u)); }
};
template <int kRows>
__device__ __forceinline__ Borders find_borders(const int32_t* of_row, int row, int rows,
                                                int lane) {
  static_assert(kRows <= kWarp);
  const int t = row + lane;
  const bool there = lane < kRows && t < rows;
  const int sequence = there ? of_row[t] : -1;
  const bool starts = there && (t == 0 || of_row[t - 1] != sequence);
  const bool ends = there && (t == rows - 1 || of_row[t + 1] != sequence);
  const int left = rows - row;
  return {__ballot_sync(kAllLanes, starts), __ballot_sync(kAllLanes, ends),
          left < 0       ? 0
          : left > kRows ? kRows
                         : left};
}

// A warp's rows, all there. The usual case: `fast`, all in one scale. Then k is not kept, but
// e = 2^(k - top).
template <int kRows, class T>
struct Tile {
  float e[kRows][2];
  Raw<T> v[kRows];
  float top[2];  // the largest k
};
template <bool kVector, int kRows, class T>
__device__ __forceinline__ void load_rows(const T* p, int step, const Lane& lane, bool there,
                                          Raw<T> (&x)[kRows]) {
  if (kVector && there && lane.in[0]) {  // asked once, not at every load
#pragma unroll
    for (int i = 0; i < kRows; ++i) x[i] = *reinterpret_cast<const Raw<T>*>(p + int64_t{step} * i);
    return;
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    x[i] = load_row<kVector>(p + int64_t{step} * i, lane, there && !kVector);
  }
}
// Sets tile.top; whether, in all lanes, sums over these rows can be in that scale.
template <int kRows, class T>
__device__ __forceinline__ bool find_top(const Raw<T> (&k)[kRows], const float (&u)[2],
                                         float (&top)[2]) {
  Raw<T> most = k[0], least = k[0];
#pragma unroll
  for (int i = 1; i < kRows; ++i) {
    most = Raw<T>::maximum(most, k[i]);
    least = Raw<T>::minimum(least, k[i]);
  }
  float bottom[2];
  most.get(top), least.get(bottom);
  bool fits = true;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    top[j] *= kLog2E;
    fits = fits && top[j] - bottom[j] * kLog2E <= kSpread && fabsf(u[j]) <= kBonus;
  }
  return __ballot_sync(kAllLanes, fits) == kAllLanes;
}
// Whether in all lanes x 2^p is not too far above 2^scale.
__device__ __forceinline__ bool fits_under(const float (&p)[2], const float (&scale)[2]) {
  const bool fits = p[0] - scale[0] <= kAbove && p[1] - scale[1] <= kAbove;
  return __ballot_sync(kAllLanes, fits) == kAllLanes;
}
// Moves the power of two of `size` > 0, normal, from a and b into p.
__device__ __forceinline__ void normalise(float size, float& a, float& b, float& p) {
  const int exponent = static_cast<int>(__float_as_uint(size) >> 23) - 127;
  const float scale = __uint_as_float(static_cast<unsigned>(127 - exponent) << 23);
  a *= scale, b *= scale, p += static_cast<float>(exponent);
}

// e of a fast tile.
template <int kRows, class T>
__device__ __forceinline__ void scale_rows(const Raw<T> (&k)[kRows], Tile<kRows, T>& tile) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float kt[2];
    k[i].get(kt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      tile.e[i][j] = exp2_fast(fmaf(kt[j], kLog2E, -tile.top[j]));
    }
  }
}
// The definition's exponent after rows, from that before them: the running maximum.
template <int kRows, class T>
__device__ __forceinline__ void run_maximum(const Raw<T> (&k)[kRows], const float (&w)[2],
                                            float (&p)[2]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float kt[2];
    k[i].get(kt);
#pragma unroll
    for (int j = 0; j < 2; ++j) p[j] = fmaxf(p[j] + w[j], kt[j] * kLog2E);
  }
}
// Puts (a, b) 2^top into a state: with the exponent `p` that it shall have, or, when that does not
// matter, any near.
__device__ __forceinline__ void rescale(const float (&top)[2], bool exact, const float (&p)[2],
                                        Scaled& s) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    s.p[j] = top[j];
    if (exact) {
      const float scale = exp2_fast(top[j] - p[j]);
      s.a[j] *= scale, s.b[j] *= scale, s.p[j] = p[j];
    } else {
      normalise(s.b[j], s.a[j], s.b[j], s.p[j]);
    }
  }
}

// What a fast tile adds to the state, starting from nothing. `exact`: p is the definition's.
template <int kRows, class T>
__device__ __forceinline__ Scaled added_by(const Raw<T> (&k)[kRows], Tile<kRows, T>& tile,
                                           const float (&w)[2], bool exact) {
  Scaled s;
  const float decay[2] = {exp2_fast(w[0]), exp2_fast(w[1])};
  float p[2] = {kEmpty, kEmpty};
  if (exact) run_maximum(k, w, p);
  scale_rows(k, tile);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float vt[2];
    tile.v[i].get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = tile.e[i][j];
      s.a[j] = fmaf(decay[j], s.a[j], e * vt[j]);
      s.b[j] = fmaf(decay[j], s.b[j], e);
    }
  }
  rescale(tile.top, exact, p, s);
  return s;
}
// From the state before any rows to that after them, reading them again; `at` is the first element.
template <bool kVector, class T>
__device__ __forceinline__ void add_any(const ForwardArgs<T>& g, int row, int64_t at,
                                        const Lane& lane, const float (&w)[2],
                                        const Borders& borders, Scaled& state) {
#pragma unroll 1
  for (int i = 0; i < borders.count; ++i) {
    if (borders.starts_at(i)) state = state_before(g, g.sequences.of_row[row + i], lane);
    float kt[2], vt[2];
    load_row<kVector>(g.k + at + int64_t{g.width} * i, lane, true).get(kt);
    load_row<kVector>(g.v + at + int64_t{g.width} * i, lane, true).get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) advance(state, j, w[j], kt[j] * kLog2E, vt[j]);
  }
}

// States of segments or tiles in memory: [count, 3, width].
__device__ __forceinline__ void store_state(float* states, int64_t index, int width,
                                            const Lane& lane, const Scaled& s) {
  float* to = states + index * 3 * width;
  store_floats(to, lane, s.a);
  store_floats(to + width, lane, s.b);
  store_floats(to + 2 * width, lane, s.p);
}
__device__ __forceinline__ Scaled load_state(const float* states, int64_t index, int width,
                                             const Lane& lane) {
  const float* from = states + index * 3 * width;
  Scaled s;
  load_floats(from, lane, s.a);
  load_floats(from + width, lane, s.b);
  load_floats(from + 2 * width, lane, s.p);
  return s;
}

// before[i] = what the parts before i, from the last closed one on, come to at i: launch 2. A
// thread carries one channel from one closed part to the next; `step` is -1 for gradients, whose
// order is reversed. The part that the order begins with is closed. `rows` of a part decay what
// came before.
template <int kStep>
__global__ void __launch_bounds__(kWalkThreads)
    wkv4_carry_kernel(const float* __restrict__ w, const float* __restrict__ parts,
                      const int* __restrict__ closed, int64_t count, int64_t width, int rows,
                      float* __restrict__ before) {
  const int64_t c = int64_t{blockIdx.y} * kWalkThreads + threadIdx.x, first = blockIdx.x;
  if (c >= width || closed[first] == 0) return;
  float decay = w[c] * kLog2E;
  decay = rows * (decay < kLowestDecay ? kLowestDecay : decay);
  const auto read = [&](int64_t i, float& a, float& b, float& p) {
    const float* part = parts + i * 3 * width + c;
    a = part[0], b = part[width], p = part[2 * width];
  };
  float a, b, p;
  read(first, a, b, p);
  // Parts are read many at a time: one by one each would cost the way to memory and back.
  constexpr int kAhead = 16;
  for (int64_t begin = first + kStep; begin >= 0 && begin < count; begin += kAhead * kStep) {
    float x[kAhead], y[kAhead], q[kAhead];
    int ends[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t i = begin + j * kStep;
      ends[j] = -1;
      if (i < 0 || i >= count) continue;
      ends[j] = closed[i];
      read(i, x[j], y[j], q[j]);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (ends[j] < 0) return;  // there is no more
      float* to = before + (begin + j * kStep) * 3 * width + c;
      to[0] = a, to[width] = b, to[2 * width] = p;
      if (ends[j] != 0) return;
      const ScaledPair e = scale_pair(p + decay, q[j]);
      a = fmaf(e.x, a, e.y * x[j]);
      b = fmaf(e.x, b, e.y * y[j]);
      p = e.maximum;
    }
  }
}
template <int kStep>
void carry(const float* w, const float* parts, const int* closed, int64_t count, int64_t width,
           int rows, float* before, Context& ctx) {
  const dim3 grid(static_cast<unsigned>(count),
                  static_cast<unsigned>(ceil_div(width, kWalkThreads)));
  const auto kernel = wkv4_carry_kernel<kStep>;
  kernel<<<grid, kWalkThreads, 0, stream(ctx)>>>(w, parts, closed, count, width, rows, before);
  check_launch("wkv4");
}

// A warp's segment and its lane's channels.
struct Place {
  int64_t segment;
  int row, end, lane_id;
  Lane lane;
  __device__ Place(int64_t segment, int rows, int width)
      : segment(segment),
        row(static_cast<int>(segment) * kSegment),
        end(min(row + kSegment, rows)),
        lane_id(static_cast<int>(threadIdx.x) % kWarp),
        lane(static_cast<int>(blockIdx.y) * kChannels + 2 * lane_id, width) {}
};
__device__ __forceinline__ int64_t warp_index() {
  return int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
}

// Rows, channels and blocks are counted with 32 bits.
inline void check_size(const Wkv4Forward& g) {
  const int64_t rows = g.k.rows(), width = g.w.count();
  check(rows < int64_t{1} << 30 && width < int64_t{1} << 30 && rows * width < int64_t{1} << 40,
        "wkv4: {} tokens of {} channels are too many for one call on the GPU", rows, width);
}

// Whether a sequence has no tokens: the kernels find sequences by their rows and do not see it.
inline bool has_empty(const Sequences& sequences) {
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.offsets[s] == sequences.offsets[s + 1]) return true;
  }
  return false;
}
inline dim3 pass_grid(int64_t width, const Sequences& sequences) {
  check(sequences.count < 65536, "wkv4: {} sequences, one call takes at most 65535 on the GPU",
        sequences.count);
  return {static_cast<unsigned>(ceil_div(width, kWalkThreads)),
          static_cast<unsigned>(sequences.count)};
}

inline bool is_paired(const TensorView& x) { return is_aligned(x.data, 2 * size_of(x.dtype)); }

}  // namespace rookery::cuda::wkv4
