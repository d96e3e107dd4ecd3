// A tensor's rows as a warp reads them: each lane has one word (4 bytes) of every row, so that a
// warp has 128 bytes of it. Rows come to shared memory by asynchronous copies, while the warp
// computes something else. Only .cu files include this.
//
// Here blockIdx.x says which channels a block has, those of one warp; all its warps have the same.
#pragma once

#include <cuda_pipeline.h>

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

// Numbers of T in a word: two neighbouring channels in bfloat16, one in float32.
template <class T>
constexpr int kWordOf = 4 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kWarpChannels = kWordOf<T>* kWarp;

// A warp's rows in shared memory.
template <int kRows>
using WarpRows = uint32_t[kRows][kWarp];

// The numbers of a word.
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
// Of each number of a word by itself.
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
  bool in[kWordOf<T>];
  explicit __device__ Lane(int width)
      : id(static_cast<int>(threadIdx.x) % kWarp),
        c(static_cast<int>(blockIdx.x) * kWarpChannels<T> + kWordOf<T> * id) {
    for (int j = 0; j < kWordOf<T>; ++j) in[j] = c + j < width;
  }
};

// A word of a row in memory. kAligned: rows begin at multiples of 16 bytes and words are whole.
template <bool kAligned, class T>
__device__ __forceinline__ uint32_t load_word(const T* p, const Lane<T>& lane) {
  if constexpr (kAligned) {
    return lane.in[0] ? *reinterpret_cast<const uint32_t*>(p) : 0;
  } else {
    float x[kWordOf<T>];
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) x[j] = lane.in[j] ? to_float(p[j]) : 0.0f;
    return pack(x);
  }
}
// Where lane.in[0] only.
template <bool kAligned, class T>
__device__ __forceinline__ void store_word(T* p, const Lane<T>& lane,
                                           const float (&x)[kWordOf<T>]) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint32_t*>(p) = pack(x);
  } else {
#pragma unroll
    for (int j = 0; j < kWordOf<T>; ++j) {
      if (lane.in[j]) p[j] = from_float<T>(x[j]);
    }
  }
}
// A lane's channels of a row of float32, 0 where it has none; any address.
template <class T>
__device__ __forceinline__ void load_floats(const float* row, const Lane<T>& lane,
                                            float (&x)[kWordOf<T>]) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) x[j] = lane.in[j] ? row[lane.c + j] : 0.0f;
}
template <class T>
__device__ __forceinline__ void store_floats(float* row, const Lane<T>& lane,
                                             const float (&x)[kWordOf<T>]) {
#pragma unroll
  for (int j = 0; j < kWordOf<T>; ++j) {
    if (lane.in[j]) row[lane.c + j] = x[j];
  }
}

// Brings the first `count` of a warp's rows to shared memory, from `p`, the first element of the
// block's channels in the first row; zeros for the others. kAligned: only begins to; they are there
// after wait_for_rows().
template <bool kAligned, class T, int kRows>
__device__ __forceinline__ void fetch_rows(const T* p, int width, int count, const Lane<T>& lane,
                                           WarpRows<kRows>& to) {
  if constexpr (kAligned) {
    constexpr int kPieces = 8, kStep = kWarp / kPieces;  // 16 bytes each; rows at a time
    static_assert(kRows % kStep == 0);
    const int first = lane.id / kPieces, piece = lane.id % kPieces;
    const int c = piece * (16 / static_cast<int>(sizeof(T)));
    const int rows =
        static_cast<int>(blockIdx.x) * kWarpChannels<T> + c < width ? count - first : 0;
    const T* from = p + int64_t{first} * width + c;
#pragma unroll
    for (int i = 0; i < kRows; i += kStep) {
      __pipeline_memcpy_async(&to[first + i][4 * piece], from, 16, i < rows ? 0 : 16);
      from += kStep * width;
    }
  } else {
    uint32_t words[kRows];
    const T* from = p + kWordOf<T> * lane.id;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      words[i] = i < count ? load_word<false>(from + int64_t{width} * i, lane) : 0;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) to[i][lane.id] = words[i];
  }
}
__device__ __forceinline__ void wait_for_rows() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncwarp();
}
// Whether rows of all of these begin at multiples of 16 bytes.
template <class T, class... Views>
bool rows_are_aligned(int64_t width, const Views&... views) {
  return width * static_cast<int64_t>(sizeof(T)) % 16 == 0 && (is_aligned(views.data, 16) && ...);
}

}  // namespace rookery::cuda
