// What the two kernels of WKV-4 on the GPU share: rows in registers, scaled states, and the scan
// over time. Included by wkv4_cuda.cu and wkv4_backward_cuda.cu only.
//
// A block owns a segment of the packed rows and 64 channels; a warp owns a few rows of it, a lane
// two neighbouring channels. A warp keeps its rows in registers and
//   1. finds what they add to the state, starting from nothing;
//   2. learns the state before them: from the earlier warps of its block through shared memory,
//      from the blocks before through scratch memory (below);
//   3. walks through its rows from that state.
// The backward does 1 and 2 for the state (from the state that the forward saved for its segment),
// sweeps forward for the outputs and their denominators, then does 1 to 3 for the state's gradient,
// from the end.
//
// Usually the k of a warp's rows lie within 2^kSpread of each other. Then no row needs a scale of
// its own: with e_t = 2^(k_t - top), top the largest k of a channel, a row is a = 2^w a + e_t v_t,
// b = 2^w b + e_t, and the gradient is in the scale 2^-top. b is at least the last e, so nothing
// that counts underflows; what comes from other rows may lie any way below, but only 2^kAbove
// above. Warps for which this does not hold, or in whose rows a sequence starts or ends, read their
// rows again one by one and give each its own exponent (the functions called ..._any).
//
// Between blocks (Merrill and Garland 2016, decoupled look-back): a block publishes what its rows
// add, and the whole state after its rows as soon as it knows that; it looks back over the blocks
// that have published no whole state yet. Blocks take their places from a counter when they start,
// so what one waits for is running or done. A whole state is always computed from the one before,
// whatever was found published: the bits do not depend on timing.
//
// In here exponents count powers of 2: w, u, k and p are multiplied by log2(e) when they are read.
// Of two exponentials 2^(x - max(x, y)), 2^(y - max(x, y)) one is always 1, so one serves both.
#pragma once

#include <algorithm>

#include "core/cuda/launch.cuh"
#include "ops/wkv4/wkv4.h"

namespace rookery::cuda::wkv4 {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kChannels = 2 * kWarp;                  // of a block
constexpr int kForwardRows = 32, kBackwardRows = 16;  // of a warp
constexpr int kForwardSegment = kWarps * kForwardRows;
constexpr int kSavedSegment = static_cast<int>(kWkv4DeviceSegment);
static_assert(kWarps * kBackwardRows == kSavedSegment && kForwardSegment % kSavedSegment == 0);
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
__device__ __forceinline__ int load_acquire(const int* p) {
  int x;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ __forceinline__ void store_release(int* p, int x) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" : : "l"(p), "r"(x) : "memory");
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
    const float values[2] = {x, y};
    if (lane.in[0]) store_pack<2>(p, values);
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

  // What is left of it where rows are read again: nothing, so that it takes no registers.
  __device__ void drop() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      e[i][0] = e[i][1] = 0.0f;
      v[i] = Raw<T>::from(from_float<T>(0.0f), from_float<T>(0.0f));
    }
    top[0] = top[1] = 0.0f;
  }
};
template <bool kVector, int kRows, class T>
__device__ __forceinline__ void load_rows(const T* p, int step, const Lane& lane, bool there,
                                          Raw<T> (&x)[kRows]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) x[i] = load_row<kVector>(p + int64_t{step} * i, lane, there);
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

// What a fast tile adds to the state, starting from nothing; fills tile.e.
// `exact`: p is the definition's, the running maximum; else any near it.
template <int kRows, class T>
__device__ __forceinline__ Scaled added_by(const Raw<T> (&k)[kRows], Tile<kRows, T>& tile,
                                           const float (&w)[2], bool exact) {
  Scaled s;
  const float decay[2] = {exp2_fast(w[0]), exp2_fast(w[1])};
  float running[2] = {kEmpty, kEmpty};
  if (exact) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float kt[2];
      k[i].get(kt);
#pragma unroll
      for (int j = 0; j < 2; ++j) running[j] = fmaxf(running[j] + w[j], kt[j] * kLog2E);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float kt[2], vt[2];
    k[i].get(kt), tile.v[i].get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = exp2_fast(fmaf(kt[j], kLog2E, -tile.top[j]));
      tile.e[i][j] = e;
      s.a[j] = fmaf(decay[j], s.a[j], e * vt[j]);
      s.b[j] = fmaf(decay[j], s.b[j], e);
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    s.p[j] = tile.top[j];
    if (exact) {
      const float scale = exp2_fast(s.p[j] - running[j]);
      s.a[j] *= scale, s.b[j] *= scale, s.p[j] = running[j];
    } else {
      normalise(s.b[j], s.a[j], s.b[j], s.p[j]);
    }
  }
  return s;
}
// The same for any rows, in which sequences may start and k have any spread, read again: all of
// the state after them if one starts, `initial` [3, kChannels] being what the last of those starts
// from. `at` is the first element.
template <bool kVector, class T>
__device__ __forceinline__ Scaled added_by_any(const ForwardArgs<T>& g, int64_t at,
                                               const Lane& lane, const float (&w)[2],
                                               const Borders& borders, const float* initial,
                                               int lane_id) {
  const int start = borders.last_start(kWarp - 1);
  Scaled s;
  if (start >= 0) s = Scaled::get(initial, lane_id);
#pragma unroll 1
  for (int i = max(start, 0); i < borders.count; ++i) {
    float kt[2], vt[2];
    load_row<kVector>(g.k + at + int64_t{g.width} * i, lane, true).get(kt);
    load_row<kVector>(g.v + at + int64_t{g.width} * i, lane, true).get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) advance(s, j, w[j], kt[j] * kLog2E, vt[j]);
  }
  return s;
}

// Where blocks meet. Items are in the order of the scan, the groups of channels innermost.
struct Scan {
  int* ticket;
  int* flags;     // [orders, groups]
  float* shares;  // [orders, groups, 2, 3, kChannels] what rows add; the whole state after them
  int orders, groups;
};
enum Flag : int { kNothing, kShare, kWhole };

// Blocks that one looks back on at most, so many per warp after the first.
constexpr int kWatched = 3, kWindow = kWatched * (kWarps - 1);

struct alignas(16) ScanShared {
  float part[kWarps][3][kChannels];     // what each warp adds; then what those before it add
  float behind[kWindow][3][kChannels];  // of blocks before, the nearest first
  float sum[3][kChannels], carried[3][kChannels];
  int closed[kWarps], flags[kWindow];
  int ticket, open;
};

// The next item, for the whole block.
__device__ __forceinline__ int take_ticket(const Scan& scan, ScanShared& shared) {
  if (threadIdx.x == 0) shared.ticket = atomicAdd(scan.ticket, 1);
  __syncthreads();
  return shared.ticket;
}
__device__ __forceinline__ float* shares_of(const Scan& scan, int item, int flag) {
  return scan.shares + (int64_t{2} * item + flag - kShare) * (3 * kChannels);
}
__device__ __forceinline__ void publish(const Scan& scan, int item, Flag flag, const Scaled& s,
                                        int lane) {
  s.put(shares_of(scan, item, flag), lane);
  __syncwarp();
  if (lane == 0) store_release(scan.flags + item, flag);
}

// Makes of each warp's part what comes to that warp from those before it in the block; returns what
// all of them add. For one warp, between barriers. A warp is closed that has all of the state after
// it in its part. `w` is the decay over a warp's rows.
__device__ __forceinline__ Scaled scan_parts(ScanShared& shared, const float (&w)[2], int lane) {
  Scaled sum;
#pragma unroll 1  // registers
  for (int i = 0; i < kWarps; ++i) {
    const Scaled part = Scaled::get(shared.part[i][0], lane);
    sum.put(shared.part[i][0], lane);
    sum = shared.closed[i] != 0 ? part : combine(sum, w, 1.0f, part);
  }
  return sum;
}

// Puts each warp's part where scan_parts() finds it; bits: which warps are closed.
__device__ __forceinline__ unsigned share_parts(ScanShared& shared, int place, int lane,
                                                const Scaled& part, bool closed) {
  part.put(shared.part[place][0], lane);
  if (lane == 0) shared.closed[place] = closed ? 1 : 0;
  __syncthreads();
  return __ballot_sync(kAllLanes, lane < kWarps && shared.closed[lane % kWarps] != 0);
}

// Waits for blocks before this one and copies what they published.
__device__ __forceinline__ void watch(const Scan& scan, ScanShared& shared, int ticket, int place,
                                      int lane, int window) {
  const int first = (place - 1) * kWatched;
  int flag = kNothing;
  if (lane < kWatched && first + lane < window) {
    const int* published = scan.flags + (ticket - (first + lane + 1) * scan.groups);
    // One whole state is needed, and the last of the window will have it.
    const int wanted = first + lane == window - 1 ? kWhole : kShare;
    do flag = load_acquire(published);
    while (flag < wanted);
    shared.flags[first + lane] = flag;
  }
  __syncwarp();
  // For all lanes: they must not see different flags. Nothing beyond a whole state is needed.
  const unsigned wholes = __ballot_sync(kAllLanes, flag == kWhole);
  const int end = wholes == 0 ? min(window - first, kWatched) : __ffs(static_cast<int>(wholes));
#pragma unroll
  for (int i = 0; i < kWatched; ++i) {
    if (i >= end) continue;
    const int item = ticket - (first + i + 1) * scan.groups;
    const int found = (wholes >> i & 1u) != 0 ? kWhole : kShare;
    Scaled::get(shares_of(scan, item, found), lane).put(shared.behind[first + i][0], lane);
  }
}

// The state that comes to this warp, at `place` of its block's scan, given what each warp adds.
// `open`: the state before the block matters (as the warp at place 0 says); `distance`: as many
// items back one publishes its whole state at once. Every thread of a block calls this.
__device__ __forceinline__ Scaled scan_block(const Scan& scan, ScanShared& shared, int ticket,
                                             int place, int lane, const Scaled& part, bool closed,
                                             bool open, int distance, const float (&w)[2]) {
  const bool last = ticket / scan.groups == scan.orders - 1;
  if (place == 0 && lane == 0) shared.open = open ? 1 : 0;
  const unsigned closed_warps = share_parts(shared, place, lane, part, closed);
  // The same for all warps.
  const bool is_open = shared.open != 0;
  const int window = min(distance, kWindow);
  if (place == 0) {
    const Scaled sum = scan_parts(shared, w, lane);
    sum.put(shared.sum[0], lane);
    if (!last) publish(scan, ticket, closed_warps != 0 ? kWhole : kShare, sum, lane);
  } else if (is_open && (place - 1) * kWatched < window) {
    watch(scan, shared, ticket, place, lane, window);
  }
  __syncthreads();
  if (is_open) {
    if (place == 0) {
      const unsigned wholes =
          __ballot_sync(kAllLanes, lane < window && shared.flags[lane % kWindow] == kWhole);
      int i = __ffs(static_cast<int>(wholes)) - 1;
      Scaled carried = Scaled::get(shared.behind[i][0], lane);
#pragma unroll 1
      while (--i >= 0) {
        carried = combine(carried, w, kWarps, Scaled::get(shared.behind[i][0], lane));
      }
      carried.put(shared.carried[0], lane);
      if (!last && closed_warps == 0) {
        const Scaled sum = Scaled::get(shared.sum[0], lane);
        publish(scan, ticket, kWhole, combine(carried, w, kWarps, sum), lane);
      }
    }
    __syncthreads();
  }
  const Scaled before = Scaled::get(shared.part[place][0], lane);
  if (!is_open || (closed_warps & ((1u << place) - 1u)) != 0) return before;
  return combine(Scaled::get(shared.carried[0], lane), w, static_cast<float>(place), before);
}

// A fresh scan over segments of `segment_rows` rows; its memory is good until the arena's scope
// ends, and after that in the order of the stream.
inline Scan make_scan(int64_t rows, int64_t width, int64_t segment_rows, Context& ctx) {
  Scan scan{};
  scan.orders = static_cast<int>(ceil_div(rows, segment_rows));
  scan.groups = static_cast<int>(ceil_div(width, kChannels));
  const int64_t items = int64_t{scan.orders} * scan.groups;
  const int64_t bytes = (items + 1) * static_cast<int64_t>(sizeof(int));
  scan.ticket = static_cast<int*>(ctx.arena->allocate(bytes));
  scan.flags = scan.ticket + 1;
  scan.shares = static_cast<float*>(
      ctx.arena->allocate(items * 2 * 3 * kChannels * static_cast<int64_t>(sizeof(float))));
  check_cuda(cudaMemsetAsync(scan.ticket, 0, bytes, stream(ctx)), "wkv4: zeroing");
  return scan;
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
