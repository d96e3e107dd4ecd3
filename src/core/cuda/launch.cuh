// What every kernel file needs: checked launches, number types as template arguments, and loads and
// stores of several neighbouring numbers at once. Only .cu files include this.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "core/context.h"
#include "core/error.h"

namespace rookery {

template <>
constexpr DType dtype_of<__nv_bfloat16>() {
  return DType::kBF16;
}

}  // namespace rookery

namespace rookery::cuda {

using bfloat16 = __nv_bfloat16;

// Throws Error naming `what` unless the call went well.
void check_cuda(cudaError_t error, const char* what);
// After a kernel<<<>>>: the launch itself (what happens inside shows when the stream is waited
// for).
inline void check_launch(const char* op) { check_cuda(cudaGetLastError(), op); }

__global__ void probe_kernel();

// Of a context that runs on a GPU.
inline cudaStream_t stream(const Context& ctx) { return ctx.stream->handle(); }
inline const DeviceInfo& device_info(const Context& ctx) { return ctx.stream->device().info(); }

// First in every kernel that is launched by launch(): lets the next one be set up, and waits until
// what this one reads has been written. What no kernel writes may be read before.
__device__ __forceinline__ void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Launches a kernel that begins with let_next_begin() and wait_for_previous(). A small grid is set
// up while the kernel before still runs: decoding is hundreds of them. Large grids would only wait
// in each other's way.
template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 threads,
            const Context& ctx, Arguments&&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.stream = stream(ctx);
  const DeviceInfo& gpu = device_info(ctx);
  const bool small = int64_t{grid.x} * grid.y * grid.z <= 4 * gpu.multiprocessors;
  if (small && gpu.major >= 9) {
    config.attrs = &early;
    config.numAttrs = 1;
  }
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), op);
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a grid that walks over `count` items with strides, `per_block` at a time: enough to
// fill the GPU several times, and no more.
inline unsigned blocks_for(const Context& ctx, int64_t count, int64_t per_block) {
  const int64_t most = int64_t{32} * device_info(ctx).multiprocessors;
  const int64_t wanted = ceil_div(count, per_block);
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted > most ? most : wanted);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

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

// kCount neighbouring numbers as floats. Vector accesses need addresses that are multiples of
// kCount * sizeof(T) (at most 16): see is_aligned.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
};
template <int kCount, class T>
__device__ __forceinline__ void load_pack(const T* p, float (&x)[kCount]) {
  const Pack<T, kCount> pack = *reinterpret_cast<const Pack<T, kCount>*>(p);
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = to_float(pack.values[i]);
}
template <int kCount, class T>
__device__ __forceinline__ void store_pack(T* p, const float (&x)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.values[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, kCount>*>(p) = pack;
}
inline bool is_aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

// Calls body(T{}) with T = float or bfloat16: the one place where a number type becomes a template
// argument of a kernel.
template <class Body>
void with_type(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(bfloat16{});
    default:
      fail("{} on the GPU takes f32 or bf16, got {}", op, name_of(dtype));
  }
}

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

}  // namespace rookery::cuda
