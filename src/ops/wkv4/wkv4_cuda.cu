// WKV-4 on the GPU, parallel over channels and over time, each number read and written once.
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
// Between blocks (Merrill and Garland 2016, decoupled look-back): a block publishes what its rows
// add, and the whole state after its rows as soon as it knows that; it looks back over the blocks
// that have published no whole state yet. Blocks take their places from a counter when they start,
// so what one waits for is running or done. A whole state is always computed from the one before,
// whatever was found published: the bits do not depend on timing.
//
// In here exponents count powers of 2: w, u, k and p are multiplied by log2(e) when they are read.
// Of two exponentials 2^(x - max(x, y)), 2^(y - max(x, y)) one is always 1, so one serves both.
#include "core/cuda/launch.cuh"
#include "ops/wkv4/wkv4.h"

namespace rookery::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kChannels = 2 * kWarp;                 // of a block
constexpr int kForwardRows = 16, kBackwardRows = 8;  // of a warp
constexpr int kForwardSegment = kWarps * kForwardRows;
constexpr int kSavedSegment = static_cast<int>(kWkv4DeviceSegment);
static_assert(kWarps * kBackwardRows == kSavedSegment && kForwardSegment % kSavedSegment == 0);
// Of the GPU's threads that step through rows one by one.
constexpr int kWalkThreads = 128, kWalkRows = 8;
// So few rows are walked one by one: a scan would wait more than it works.
constexpr int64_t kFewRows = 128;

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

// To the compiler x is new after this (it does not know that `zero` is 0): what it worked out from
// x before is not kept in registers for later, but worked out again.
__device__ __forceinline__ void renew(int& x, int zero) { x ^= zero; }

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
  __device__ void renew(int zero) { bits ^= static_cast<uint32_t>(zero); }
  static __device__ Raw from(bfloat16 x, bfloat16 y) {
    return {__bfloat16_as_ushort(x) | (static_cast<uint32_t>(__bfloat16_as_ushort(y)) << 16)};
  }
};
template <>
struct alignas(8) Raw<float> {
  float x, y;
  __device__ void get(float (&to)[2]) const { to[0] = x, to[1] = y; }
  __device__ void renew(int) {}
  static __device__ Raw from(float x, float y) { return {x, y}; }
};

template <int kRows, class T>
__device__ __forceinline__ void renew(Raw<T> (&x)[kRows], int zero) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) x[i].renew(zero);
}

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
    cuda::put(rows, lane, a);
    cuda::put(rows + kChannels, lane, b);
    cuda::put(rows + 2 * kChannels, lane, p);
  }
  static __device__ Scaled get(const float* rows, int lane) {
    Scaled s;
    cuda::get(rows, lane, s.a);
    cuda::get(rows + kChannels, lane, s.b);
    cuda::get(rows + 2 * kChannels, lane, s.p);
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
template <class T>
struct BackwardArgs {
  ForwardArgs<T> forward;
  const T* dy;
  T *dk, *dv;
  bool accumulate_dk, accumulate_dv;
  DeviceState da_out, db_out, da_in, db_in;
  float* partial;  // [segments, 2, A] shares of dw and du

  BackwardArgs(const Wkv4Backward& g, float* partial)
      : forward(g.forward),
        dy(static_cast<const T*>(g.dy.data)),
        dk(static_cast<T*>(g.dk.data)),
        dv(static_cast<T*>(g.dv.data)),
        accumulate_dk(g.dk.accumulate),
        accumulate_dv(g.dv.accumulate),
        da_out(g.da_out),
        db_out(g.db_out),
        da_in(g.da_in),
        db_in(g.db_in),
        partial(partial) {}
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
  static_assert(kRows + 2 <= kWarp);
  // Lane l looks at the row before row + l.
  const int t = row - 1 + lane;
  const int sequence = lane < kRows + 2 && t >= 0 && t < rows ? of_row[t] : -1;
  const int before = __shfl_up_sync(kAllLanes, sequence, 1);
  const unsigned differ = __ballot_sync(kAllLanes, lane > 0 && sequence != before);
  const int left = rows - row, count = left < 0 ? 0 : left > kRows ? kRows : left;
  const unsigned there = (1u << count) - 1u;
  return {differ >> 1 & there, differ >> 2 & there, count};
}

// Row i of a warp's: from its registers; or, since those have no index, from memory again, for
// loops that are not unrolled.
template <bool kAgain, bool kVector, int kRows, class T>
__device__ __forceinline__ void row_of(const Raw<T> (&rows)[kRows], const T* p, int64_t step,
                                       const Lane& lane, int i, float (&x)[2]) {
  if constexpr (kAgain) {
    load_row<kVector>(p + step * i, lane, true).get(x);
  } else {
    rows[i].get(x);
  }
}

// What a warp's rows, the first at element `at`, add to the state: all of it if a sequence starts
// in them, `initial` [3, kChannels] being the state that the last of those starts from.
template <bool kVector, int kRows, class T>
__device__ __forceinline__ Scaled added_by(const ForwardArgs<T>& g, Raw<T> (&k)[kRows],
                                           const Raw<T> (&v)[kRows], int64_t at, const Lane& lane,
                                           const float (&w)[2], const Borders& borders,
                                           const float* initial, int lane_id, int zero) {
  const int start = borders.last_start(kRows - 1);
  Scaled s;
  if (borders.count == kRows && start <= 0) {
    // The largest exponent first: then the rows do not wait for each other.
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float kt[2];
      k[i].get(kt);
#pragma unroll
      for (int j = 0; j < 2; ++j) s.p[j] = fmaxf(s.p[j] + w[j], kt[j] * kLog2E);
    }
    renew(k, zero);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float kt[2], vt[2];
      k[i].get(kt), v[i].get(vt);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float decayed = fmaf(static_cast<float>(kRows - 1 - i), w[j], -s.p[j]);
        const float e = exp2_fast(fmaf(kt[j], kLog2E, decayed));
        s.a[j] = fmaf(e, vt[j], s.a[j]);
        s.b[j] += e;
      }
    }
    return start == 0 ? combine(Scaled::get(initial, lane_id), w, kRows, s) : s;
  }
  if (start >= 0) s = Scaled::get(initial, lane_id);
#pragma unroll 1
  for (int i = max(start, 0); i < borders.count; ++i) {
    float kt[2], vt[2];
    row_of<true, kVector>(k, g.k + at, g.width, lane, i, kt);
    row_of<true, kVector>(v, g.v + at, g.width, lane, i, vt);
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
  int zero;  // for renew()
};
enum Flag : int { kNothing, kShare, kWhole };

struct ScanShared {
  float part[kWarps][3][kChannels];
  float carried[3][kChannels];
  int closed[kWarps], flags[kWarps];
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

// What the warps before place `end` of the scan add together, from the last closed one on. `w` is
// the decay over a warp's rows.
__device__ __forceinline__ Scaled gather(const ScanShared& shared, unsigned closed, int end,
                                         const float (&w)[2], int lane) {
  const unsigned before = closed & ((1u << end) - 1u);
  const int begin = before == 0 ? 0 : 31 - __clz(before);
  Scaled s;
#pragma unroll 1  // registers
  for (int i = begin; i < end; ++i) {
    float p[2];
    get(shared.part[i][2], lane, p);
#pragma unroll
    for (int j = 0; j < 2; ++j) s.p[j] = fmaxf(s.p[j] + w[j], p[j]);
  }
#pragma unroll 1  // registers
  for (int i = begin; i < end; ++i) {
    const Scaled part = Scaled::get(shared.part[i][0], lane);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = exp2_fast(fmaf(static_cast<float>(end - 1 - i), w[j], part.p[j] - s.p[j]));
      s.a[j] = fmaf(e, part.a[j], s.a[j]);
      s.b[j] = fmaf(e, part.b[j], s.b[j]);
    }
  }
  return s;
}

// Puts each warp's part where gather() finds it; bits: which warps are closed, that is, have all of
// the state after them in their part.
__device__ __forceinline__ unsigned share_parts(ScanShared& shared, int place, int lane,
                                                const Scaled& part, bool closed) {
  part.put(shared.part[place][0], lane);
  if (lane == 0) shared.closed[place] = closed ? 1 : 0;
  __syncthreads();
  return __ballot_sync(kAllLanes, lane < kWarps && shared.closed[lane % kWarps] != 0);
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
  Scaled before = gather(shared, closed_warps, place, w, lane);
  if (place == 0 && !last) {
    const Scaled share = gather(shared, closed_warps, kWarps, w, lane);
    share.put(shared.carried[0], lane);
    publish(scan, ticket, closed_warps != 0 ? kWhole : kShare, share, lane);
  }
  if (shared.open == 0) return before;
  __syncthreads();  // the parts are read, and their memory takes those of the blocks before
  const int window = min(distance, kWarps);
  if (place < window) {
    const int item = ticket - (place + 1) * scan.groups;
    // One whole state is needed, and the last of the window will have it.
    const int wanted = place == window - 1 ? kWhole : kShare;
    if (lane == 0) {  // for all lanes: they must not see different flags
      int flag = load_acquire(scan.flags + item);
      while (flag < wanted) flag = load_acquire(scan.flags + item);
      shared.flags[place] = flag;
    }
    __syncwarp();
    const int flag = shared.flags[place];
    Scaled::get(shares_of(scan, item, flag), lane).put(shared.part[place][0], lane);
  }
  __syncthreads();
  Scaled whole;
  if (place == 0) {
    const unsigned wholes =
        __ballot_sync(kAllLanes, lane < window && shared.flags[lane % kWarps] == kWhole);
    int i = __ffs(static_cast<int>(wholes)) - 1;
    Scaled carried = Scaled::get(shared.part[i][0], lane);
#pragma unroll 1
    while (--i >= 0) carried = combine(carried, w, kWarps, Scaled::get(shared.part[i][0], lane));
    if (!last) whole = combine(carried, w, kWarps, Scaled::get(shared.carried[0], lane));
    carried.put(shared.carried[0], lane);
  }
  __syncthreads();
  if (place == 0 && !last && closed_warps == 0) publish(scan, ticket, kWhole, whole, lane);
  if ((closed_warps & ((1u << place) - 1u)) != 0) return before;
  return combine(Scaled::get(shared.carried[0], lane), w, static_cast<float>(place), before);
}

// A state may be updated in place. A sequence that ends in a later block is read here before this
// block publishes anything, and that block writes after it has seen what depends on it. One that
// goes on into a later warp is the last to start in its warp, and its state is kept in `initial`.
struct ForwardShared {
  ScanShared scan;
  float initial[kWarps][3][kChannels];
};

// kBorders: borders anywhere, or rows missing.
template <bool kBorders, bool kVector, class T>
__device__ __forceinline__ void walk_rows(const ForwardArgs<T>& g, const Raw<T> (&k)[kForwardRows],
                                          const Raw<T> (&v)[kForwardRows], const float (&w)[2],
                                          const float (&u)[2], const Borders& borders, int row,
                                          int step, const Lane& lane, int lane_id,
                                          const float* initial, Scaled state) {
  const int64_t at = int64_t{row} * step + lane.c;
  const int rows = kBorders ? borders.count : kForwardRows;
  const int last_start = borders.last_start(kForwardRows - 1);
  if (!kBorders && borders.starts_at(0)) state = Scaled::get(initial, lane_id);
#pragma unroll(kBorders ? 1 : kForwardRows)
  for (int i = 0; i < rows; ++i) {
    if (kBorders && borders.starts_at(i)) {
      state = i == last_start ? Scaled::get(initial, lane_id)
                              : state_before(g, g.sequences.of_row[row + i], lane);
    }
    float kt[2], vt[2], yt[2];
    row_of<kBorders, kVector>(k, g.k + at, step, lane, i, kt);
    row_of<kBorders, kVector>(v, g.v + at, step, lane, i, vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const ScaledPair e = scale_pair(state.p[j], fmaf(kt[j], kLog2E, u[j]));
      yt[j] = fmaf(e.x, state.a[j], e.y * vt[j]) * reciprocal(fmaf(e.x, state.b[j], e.y));
      advance(state, j, w[j], kt[j] * kLog2E, vt[j]);
    }
    store_row<kVector>(g.y + at + int64_t{step} * i, lane, yt[0], yt[1]);
    if (kBorders && borders.ends_at(i)) leave_state(g, g.sequences.of_row[row + i], lane, state);
  }
  if (!kBorders && borders.ends_at(kForwardRows - 1)) {
    leave_state(g, g.sequences.of_row[row + kForwardRows - 1], lane, state);
  }
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 4 : 2)
    wkv4_forward_kernel(const ForwardArgs<T> g, const Scan scan) {
  __shared__ ForwardShared shared;
  const int ticket = take_ticket(scan, shared.scan);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane_id = static_cast<int>(threadIdx.x) % kWarp;
  const int segment = ticket / scan.groups, first = segment * kForwardSegment;
  const int row = first + warp * kForwardRows;
  const Lane lane(ticket % scan.groups * kChannels + 2 * lane_id, g.width);
  Raw<T> k[kForwardRows], v[kForwardRows];
  const int64_t at = int64_t{row} * g.width + lane.c;
#pragma unroll
  for (int i = 0; i < kForwardRows; ++i) {
    k[i] = load_row<kVector>(g.k + at + int64_t{g.width} * i, lane, row + i < g.rows);
    v[i] = load_row<kVector>(g.v + at + int64_t{g.width} * i, lane, row + i < g.rows);
  }
  const Borders borders = find_borders<kForwardRows>(g.sequences.of_row, row, g.rows, lane_id);
  const int begin = static_cast<int>(g.sequences.offsets[g.sequences.of_row[first]]);
  float w[2], w_rows[2];
  load_decay(g.w, lane, w);
#pragma unroll
  for (int j = 0; j < 2; ++j) w_rows[j] = w[j] * kForwardRows;

  float* initial = shared.initial[warp][0];
  if (borders.starts != 0) {
    const int start = row + borders.last_start(kForwardRows - 1);
    state_before(g, g.sequences.of_row[start], lane).put(initial, lane_id);
  }
  const Scaled part = added_by<kVector>(g, k, v, at, lane, w, borders, initial, lane_id, scan.zero);
  Scaled state = scan_block(scan, shared.scan, ticket, warp, lane_id, part, borders.starts != 0,
                            begin != first, segment - begin / kForwardSegment, w_rows);
  renew(k, scan.zero), renew(v, scan.zero);
  if (borders.count == 0) return;
  if (g.segment_states != nullptr && warp % (kSavedSegment / kForwardRows) == 0) {
    float* saved = g.segment_states + int64_t{row / kSavedSegment} * 3 * g.width;
    store_floats(saved, lane, state.a);
    store_floats(saved + g.width, lane, state.b);
    store_floats(saved + 2 * g.width, lane, state.p);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) w[j] = w_rows[j] * (1.0f / kForwardRows);  // exact
  float u[2];
  load_exponents(g.u, lane, u);
  int step = g.width;
  renew(step, scan.zero);
  if (borders.plain(kForwardRows)) {
    walk_rows<false, kVector>(g, k, v, w, u, borders, row, step, lane, lane_id, initial, state);
  } else {
    walk_rows<true, kVector>(g, k, v, w, u, borders, row, step, lane, lane_id, initial, state);
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
__global__ void pass_state_gradients_kernel(const BackwardArgs<T> g) {
  const int c = static_cast<int>(blockIdx.x * kWalkThreads + threadIdx.x);
  const int64_t s = blockIdx.y;
  const DeviceSequences& sequences = g.forward.sequences;
  if (c >= g.forward.width || sequences.offsets[s] != sequences.offsets[s + 1]) return;
  const int64_t in = sequences.slot_in[s];
  const int64_t out = g.da_out.data != nullptr ? sequences.slot_out[s] : -1;
  if (in < 0) return;
  g.da_in.at(in, c) = out < 0 ? 0.0f : g.da_out.at(out, c);
  g.db_in.at(in, c) = out < 0 ? 0.0f : g.db_out.at(out, c);
}

struct BackwardShared {
  ScanShared scan;
  // Of each row: the exponent of its denominator, dy / denominator, y. A lane's own.
  float rows[kWarps][kBackwardRows][3][kChannels];
};

// The gradient of a sequence's final state: a and b are given in the gauge p.
template <class T>
__device__ __forceinline__ Scaled gradient_after(const BackwardArgs<T>& g, int sequence,
                                                 const Lane& lane) {
  Scaled s;
  const int64_t slot = g.da_out.data != nullptr ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot >= 0) {
    load_floats(&g.da_out.at(slot, 0), lane, s.a);
    load_floats(&g.db_out.at(slot, 0), lane, s.b);
    load_exponents(&g.forward.p_out.at(slot, 0), lane, s.p);
    s.p[0] = -s.p[0], s.p[1] = -s.p[1];
  }
  return s;
}
// The product of a sequence's final state and its gradient.
template <class T>
__device__ __forceinline__ void product_after(const BackwardArgs<T>& g, int sequence,
                                              const Lane& lane, float (&x)[2]) {
  x[0] = x[1] = 0.0f;
  const int64_t slot = g.da_out.data != nullptr ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot < 0) return;
  float a[2], b[2], da[2], db[2];
  load_floats(&g.da_out.at(slot, 0), lane, da);
  load_floats(&g.db_out.at(slot, 0), lane, db);
  load_floats(&g.forward.a_out.at(slot, 0), lane, a);
  load_floats(&g.forward.b_out.at(slot, 0), lane, b);
#pragma unroll
  for (int j = 0; j < 2; ++j) x[j] = fmaf(a[j], da[j], b[j] * db[j]);
}
template <class T>
__device__ __forceinline__ void leave_gradient(const BackwardArgs<T>& g, int sequence,
                                               const Lane& lane, const Scaled& gradient) {
  const int64_t slot = g.da_in.data != nullptr ? g.forward.sequences.slot_in[sequence] : -1;
  if (slot < 0) return;
  float p[2], da[2], db[2];
  load_exponents(&g.forward.p_in.at(slot, 0), lane, p);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float scale = exp2_fast(gradient.p[j] + p[j]);
    da[j] = gradient.a[j] * scale;
    db[j] = gradient.b[j] * scale;
  }
  store_floats(&g.da_in.at(slot, 0), lane, da);
  store_floats(&g.db_in.at(slot, 0), lane, db);
}

// From the state before a warp's rows to that after them. Fills `rows` [kBackwardRows, 3,
// kChannels]; `part` is what the outputs, up to the first end of a sequence, add to the gradient of
// the state before the rows.
template <bool kBorders, bool kVector, class T>
__device__ __forceinline__ void sweep_forward(
    const BackwardArgs<T>& g, const Raw<T> (&k)[kBackwardRows], const Raw<T> (&v)[kBackwardRows],
    const Raw<T> (&dy)[kBackwardRows], const float (&w)[2], const float (&u)[2],
    const Borders& borders, int row, int step, const Lane& lane, int lane_id, float* rows,
    Scaled& state, Scaled& part) {
  const int64_t at = int64_t{row} * step + lane.c;
  const int count = kBorders ? borders.count : kBackwardRows;
  const int32_t* of_row = g.forward.sequences.of_row;
  if (!kBorders && borders.starts_at(0)) state = state_before(g.forward, of_row[row], lane);
  bool ended = false;
#pragma unroll(kBorders ? 1 : kBackwardRows)
  for (int i = 0; i < count; ++i) {
    if (kBorders && borders.starts_at(i)) {
      state = state_before(g.forward, of_row[row + i], lane);
    }
    float kt[2], vt[2], dyt[2], q[2], r[2], yt[2];
    row_of<kBorders, kVector>(k, g.forward.k + at, step, lane, i, kt);
    row_of<kBorders, kVector>(v, g.forward.v + at, step, lane, i, vt);
    row_of<kBorders, kVector>(dy, g.dy + at, step, lane, i, dyt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const ScaledPair e = scale_pair(state.p[j], fmaf(kt[j], kLog2E, u[j]));
      const float inverse = reciprocal(fmaf(e.x, state.b[j], e.y));
      q[j] = e.maximum;
      yt[j] = fmaf(e.x, state.a[j], e.y * vt[j]) * inverse;
      r[j] = dyt[j] * inverse;
      advance(state, j, w[j], kt[j] * kLog2E, vt[j]);
      if (kBorders && ended) continue;
      const ScaledPair sum = scale_pair(part.p[j], fmaf(static_cast<float>(i), w[j], -q[j]));
      const float share = sum.y * r[j];
      part.a[j] = fmaf(sum.x, part.a[j], share);
      part.b[j] = fmaf(sum.x, part.b[j], -share * yt[j]);
      part.p[j] = sum.maximum;
    }
    put(rows + (3 * i) * kChannels, lane_id, q);
    put(rows + (3 * i + 1) * kChannels, lane_id, r);
    put(rows + (3 * i + 2) * kChannels, lane_id, yt);
    if (kBorders && borders.ends_at(i) && !ended) {
      part = combine(gradient_after(g, of_row[row + i], lane), w, static_cast<float>(i + 1), part);
      ended = true;
    }
  }
  if (!kBorders && borders.ends_at(kBackwardRows - 1)) {
    part =
        combine(gradient_after(g, of_row[row + kBackwardRows - 1], lane), w, kBackwardRows, part);
  }
}

// From the gradient of the state after a warp's rows to that before them.
//
// dw needs no states inside the rows. With G_i, S_i the gradient of and the state after row i of a
// run of n rows of one sequence, D_i = <G_i, e^w S_{i-1}> is row i's share of dw, and what row i
// adds to the state or takes from it ties neighbours:
//   <G_i, S_i> = D_i + K_i,   <G_{i-1}, S_{i-1}> = D_i + C_i,
// K_i being dk_i's part through the state, C_i = dy_i (A_{i-1} - y_i B_{i-1}) / denominator, which
// is -du_i as y_i is the weighted mean of old state and v_i. With dk_i = du_i + K_i,
//   sum_i D_i = n <G_{n-1}, S_{n-1}> - sum_i (i + 1) dk_i + sum_i du_i.
template <bool kBorders, bool kVector, class T>
__device__ __forceinline__ void sweep_backward(
    const BackwardArgs<T>& g, const Raw<T> (&k)[kBackwardRows], const Raw<T> (&v)[kBackwardRows],
    const float (&w)[2], const float (&u)[2], const Borders& borders, int row, int step,
    const Lane& lane, int lane_id, const float* rows, const Scaled& state, Scaled gradient,
    float (&dw)[2], float (&du)[2]) {
  const int32_t* of_row = g.forward.sequences.of_row;
  const int64_t at = int64_t{row} * step + lane.c;
  // Rows of the run that ends at row i.
  const auto length = [&](int i) {
    const int start = borders.last_start(i);
    return static_cast<float>(start < 0 ? i + 1 : i + 1 - start);
  };
  const int last = kBorders ? borders.count - 1 : kBackwardRows - 1;
  if (borders.ends_at(last)) gradient = gradient_after(g, of_row[row + last], lane);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float product = fmaf(state.a[j], gradient.a[j], state.b[j] * gradient.b[j]);
    const float rows_there = kBorders ? length(last) : static_cast<float>(kBackwardRows);
    dw[j] = rows_there * product * exp2_fast(state.p[j] + gradient.p[j]);
    du[j] = 0.0f;
  }
#pragma unroll(kBorders ? 1 : kBackwardRows)
  for (int i = last; i >= 0; --i) {
    const float place = kBorders ? length(i) : static_cast<float>(i + 1);
    if (kBorders && i != last && borders.ends_at(i)) {
      gradient = gradient_after(g, of_row[row + i], lane);
      float product[2];
      product_after(g, of_row[row + i], lane, product);
#pragma unroll
      for (int j = 0; j < 2; ++j) dw[j] = fmaf(place, product[j], dw[j]);
    }
    float kt[2], vt[2], q[2], r[2], yt[2], dk[2], dv[2];
    row_of<kBorders, kVector>(k, g.forward.k + at, step, lane, i, kt);
    row_of<kBorders, kVector>(v, g.forward.v + at, step, lane, i, vt);
    get(rows + (3 * i) * kChannels, lane_id, q);
    get(rows + (3 * i + 1) * kChannels, lane_id, r);
    get(rows + (3 * i + 2) * kChannels, lane_id, yt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      // Through this output, and through the state after this row. All exponents are at most 0: the
      // gradient's is minus a later q, which this row's k, decayed, does not exceed.
      const float direct = r[j] * exp2_fast(fmaf(kt[j], kLog2E, u[j]) - q[j]);
      const float direct_k = direct * (vt[j] - yt[j]);
      const float stored = exp2_fast(fmaf(kt[j], kLog2E, gradient.p[j]));
      dk[j] = fmaf(stored, fmaf(gradient.a[j], vt[j], gradient.b[j]), direct_k);
      dv[j] = fmaf(stored, gradient.a[j], direct);
      du[j] += direct_k;
      dw[j] = fmaf(-place, dk[j], dw[j]);
      const ScaledPair e = scale_pair(gradient.p[j] + w[j], -q[j]);
      const float share = e.y * r[j];
      gradient.a[j] = fmaf(e.x, gradient.a[j], share);
      gradient.b[j] = fmaf(e.x, gradient.b[j], -share * yt[j]);
      gradient.p[j] = e.maximum;
    }
    const int64_t here = at + int64_t{step} * i;
    if (g.dk != nullptr) {
      store_gradient_row<kVector>(g.dk + here, lane, g.accumulate_dk, dk[0], dk[1]);
    }
    if (g.dv != nullptr) {
      store_gradient_row<kVector>(g.dv + here, lane, g.accumulate_dv, dv[0], dv[1]);
    }
    if (kBorders && borders.starts_at(i)) leave_gradient(g, of_row[row + i], lane, gradient);
  }
  if (!kBorders && borders.starts_at(0)) leave_gradient(g, of_row[row], lane, gradient);
#pragma unroll
  for (int j = 0; j < 2; ++j) dw[j] += du[j];
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 4 : 2)
    wkv4_backward_kernel(const BackwardArgs<T> g, const Scan scan) {
  extern __shared__ float4 memory[];
  BackwardShared& shared = *reinterpret_cast<BackwardShared*>(memory);
  const ForwardArgs<T>& f = g.forward;
  const int ticket = take_ticket(scan, shared.scan);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane_id = static_cast<int>(threadIdx.x) % kWarp;
  const int segment = scan.orders - 1 - ticket / scan.groups, first = segment * kSavedSegment;
  const int row = first + warp * kBackwardRows;
  const Lane lane(ticket % scan.groups * kChannels + 2 * lane_id, f.width);
  Raw<T> k[kBackwardRows], v[kBackwardRows], dy[kBackwardRows];
  const int64_t at = int64_t{row} * f.width + lane.c;
#pragma unroll
  for (int i = 0; i < kBackwardRows; ++i) {
    const bool there = row + i < f.rows;
    k[i] = load_row<kVector>(f.k + at + int64_t{f.width} * i, lane, there);
    v[i] = load_row<kVector>(f.v + at + int64_t{f.width} * i, lane, there);
    dy[i] = load_row<kVector>(g.dy + at + int64_t{f.width} * i, lane, there);
  }
  const Borders borders = find_borders<kBackwardRows>(f.sequences.of_row, row, f.rows, lane_id);
  float w[2], w_rows[2], u[2];
  load_decay(f.w, lane, w);
#pragma unroll
  for (int j = 0; j < 2; ++j) w_rows[j] = w[j] * kBackwardRows;

  float* rows = shared.rows[warp][0][0];
  // The state before the warp's rows.
  Scaled state;
  {
    float* initial = rows;  // not in use yet
    if (borders.starts != 0) {
      const int start = row + borders.last_start(kBackwardRows - 1);
      state_before(f, f.sequences.of_row[start], lane).put(initial, lane_id);
    }
    const Scaled part =
        added_by<kVector>(f, k, v, at, lane, w, borders, initial, lane_id, scan.zero);
    const unsigned closed = share_parts(shared.scan, warp, lane_id, part, borders.starts != 0);
    state = gather(shared.scan, closed, warp, w_rows, lane_id);
    // Nothing has been saved that matters where a sequence starts with the segment.
    if ((closed & ((1u << warp) - 1u)) == 0 && !borders.starts_at(0)) {
      const float* states = f.segment_states + int64_t{segment} * 3 * f.width;
      Scaled saved;
      load_floats(states, lane, saved.a);
      load_floats(states + f.width, lane, saved.b);
      load_floats(states + 2 * f.width, lane, saved.p);
      state = combine(saved, w_rows, static_cast<float>(warp), state);
    }
  }
  renew(k, scan.zero), renew(v, scan.zero);

  load_exponents(f.u, lane, u);
  int step = f.width;
  renew(step, scan.zero);
  const bool plain = borders.plain(kBackwardRows);
  Scaled part;
  if (plain) {
    sweep_forward<false, kVector>(g, k, v, dy, w, u, borders, row, step, lane, lane_id, rows, state,
                                  part);
  } else {
    sweep_forward<true, kVector>(g, k, v, dy, w, u, borders, row, step, lane, lane_id, rows, state,
                                 part);
  }
  renew(k, scan.zero), renew(v, scan.zero);
  renew(step, scan.zero);
  __syncthreads();  // the parts of the state are read, and their memory takes those of the gradient
  const int last = first + kSavedSegment - 1;
  int end = 0;  // of the sequence that the segment's last row belongs to
  if (last < f.rows) end = static_cast<int>(f.sequences.offsets[f.sequences.of_row[last] + 1]);
  const Scaled gradient =
      scan_block(scan, shared.scan, ticket, kWarps - 1 - warp, lane_id, part, borders.ends != 0,
                 end > last + 1, (end - 1) / kSavedSegment - segment, w_rows);
#pragma unroll
  for (int j = 0; j < 2; ++j) w[j] = w_rows[j] * (1.0f / kBackwardRows);  // exact
  load_exponents(f.u, lane, u);
  float dw[2] = {0.0f, 0.0f}, du[2] = {0.0f, 0.0f};
  if (plain) {
    sweep_backward<false, kVector>(g, k, v, w, u, borders, row, step, lane, lane_id, rows, state,
                                   gradient, dw, du);
  } else if (borders.count > 0) {
    sweep_backward<true, kVector>(g, k, v, w, u, borders, row, step, lane, lane_id, rows, state,
                                  gradient, dw, du);
  }
  __syncthreads();  // the parts of the gradient are read
  put(shared.scan.part[warp][0], lane_id, dw);
  put(shared.scan.part[warp][1], lane_id, du);
  __syncthreads();
  if (warp < 2) {  // one sums dw, one du
    float sum[2] = {0.0f, 0.0f};
    for (int i = 0; i < kWarps; ++i) {
      float x[2];
      get(shared.scan.part[i][warp], lane_id, x);
      sum[0] += x[0], sum[1] += x[1];
    }
    store_floats(g.partial + int64_t{2 * segment + warp} * f.width, lane, sum);
  }
}

// Sums of partial [segments, 2, A], always in the same order.
constexpr int kSumRows = 32;
__global__ void __launch_bounds__(kWarp* kSumRows)
    wkv4_sum_kernel(const float* partial, int64_t segments, int64_t width, float* dw,
                    bool accumulate_dw, float* du, bool accumulate_du) {
  __shared__ float sums[kSumRows][kWarp];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  float sum = 0.0f;
  for (int64_t s = threadIdx.y; s < segments && c < width; s += kSumRows) {
    sum += partial[(2 * s + blockIdx.y) * width + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float* gradient = blockIdx.y == 0 ? dw : du;
  if (threadIdx.y != 0 || c >= width || gradient == nullptr) return;
  sum = (blockIdx.y == 0 ? accumulate_dw : accumulate_du) ? gradient[c] : 0.0f;
  for (int i = 0; i < kSumRows; ++i) sum += sums[i][threadIdx.x];
  gradient[c] = sum;
}

// A fresh scan over segments of `segment_rows` rows; its memory is good until the arena's scope
// ends, and after that in the order of the stream.
Scan make_scan(int64_t rows, int64_t width, int64_t segment_rows, Context& ctx) {
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
void check_size(const Wkv4Forward& g) {
  const int64_t rows = g.k.rows(), width = g.w.count();
  check(rows < int64_t{1} << 30 && width < int64_t{1} << 30 && rows * width < int64_t{1} << 40,
        "wkv4: {} tokens of {} channels are too many for one call on the GPU", rows, width);
}

// Whether a sequence has no tokens: the kernels find sequences by their rows and do not see it.
bool has_empty(const Sequences& sequences) {
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.offsets[s] == sequences.offsets[s + 1]) return true;
  }
  return false;
}
dim3 pass_grid(int64_t width, const Sequences& sequences) {
  check(sequences.count < 65536, "wkv4: {} sequences, one call takes at most 65535 on the GPU",
        sequences.count);
  return {static_cast<unsigned>(ceil_div(width, kWalkThreads)),
          static_cast<unsigned>(sequences.count)};
}

bool is_paired(const TensorView& x) { return is_aligned(x.data, 2 * size_of(x.dtype)); }

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

template <class T>
void backward(const Wkv4Backward& g, Context& ctx) {
  check_size(g.forward);
  const int64_t rows = g.forward.k.rows(), width = g.forward.w.count();
  if (width == 0) return;
  const ArenaScope scope(*ctx.arena);
  const int64_t segments = ceil_div(rows, kSavedSegment);
  auto* partial = static_cast<float*>(
      ctx.arena->allocate(segments * 2 * width * static_cast<int64_t>(sizeof(float))));
  const BackwardArgs<T> args(g, partial);
  if (g.da_in && has_empty(g.forward.sequences)) {
    pass_state_gradients_kernel<<<pass_grid(width, g.forward.sequences), kWalkThreads, 0,
                                  stream(ctx)>>>(args);
    check_launch("wkv4.backward");
  }
  if (rows > 0) {
    const Scan scan = make_scan(rows, width, kSavedSegment, ctx);
    const auto blocks = static_cast<unsigned>(scan.orders) * static_cast<unsigned>(scan.groups);
    const bool vector = width % 2 == 0 && is_paired(g.forward.k) && is_paired(g.forward.v) &&
                        is_paired(g.dy) && is_paired(g.dk) && is_paired(g.dv);
    const auto kernel = vector ? wkv4_backward_kernel<T, true> : wkv4_backward_kernel<T, false>;
    constexpr int kBytes = static_cast<int>(sizeof(BackwardShared));
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "wkv4.backward: shared memory");
    kernel<<<blocks, kThreads, kBytes, stream(ctx)>>>(args, scan);
    check_launch("wkv4.backward");
  }
  if (g.dw || g.du) {
    const dim3 grid(static_cast<unsigned>(ceil_div(width, kWarp)), 2), threads(kWarp, kSumRows);
    wkv4_sum_kernel<<<grid, threads, 0, stream(ctx)>>>(
        partial, segments, width, static_cast<float*>(g.dw.data), g.dw.accumulate,
        static_cast<float*>(g.du.data), g.du.accumulate);
    check_launch("wkv4.backward");
  }
}

}  // namespace

void wkv4_forward(const Wkv4Forward& g, Context& ctx) {
  with_type(g.k.dtype, "wkv4", [&](auto type) { forward<decltype(type)>(g, ctx); });
}

void wkv4_backward(const Wkv4Backward& g, Context& ctx) {
  with_type(g.forward.k.dtype, "wkv4.backward",
            [&](auto type) { backward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
