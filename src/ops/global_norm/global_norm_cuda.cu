// The global norm on the GPU. Tensors come as arguments of the kernel, as many as fit; each is cut
// into chunks, one of a block, whose sum is kept; a last block adds the sums in a fixed order.
// Squares in double, as on the CPU: the square of 1e25 is no float.

#include <algorithm>

#include "core/cuda/elementwise.cuh"
#include "ops/global_norm/global_norm.h"

namespace rookery::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLastThreads = 1024;
constexpr int64_t kChunk = 16384;  // elements

// Arguments of a kernel may have 32764 bytes.
struct Tensors {
  static constexpr int kMost = 1600;
  int size;
  int first_block[kMost];  // ascending
  int64_t count[kMost];    // of elements; never 0
  const float* data[kMost];
  double* sums;  // [blocks]
};
static_assert(sizeof(Tensors) <= 32764);

// Sum over the block, in thread 0.
template <int kBlockThreads>
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double sums[kBlockThreads];
  sums[threadIdx.x] = x;
  __syncthreads();
#pragma unroll
  for (int half = kBlockThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ Tensors tensors) {
  // The last tensor that begins at this block or before.
  int tensor = 0;
  for (int beyond = tensors.size; beyond - tensor > 1;) {
    const int middle = (tensor + beyond) / 2;
    (tensors.first_block[middle] <= static_cast<int>(blockIdx.x) ? tensor : beyond) = middle;
  }
  const int64_t begin = (blockIdx.x - tensors.first_block[tensor]) * kChunk;
  const int64_t rest = tensors.count[tensor] - begin;
  const int count = static_cast<int>(rest < kChunk ? rest : kChunk);
  const float* const x = tensors.data[tensor] + begin;
  double sums[4] = {};  // or each addition would wait for the one before
  int done = 0;
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {
    done = count / 4 * 4;
#pragma unroll 4
    for (int i = 4 * threadIdx.x; i < done; i += 4 * kThreads) {
      float values[4];
      load_pack(x + i, values);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const double value = values[k];
        sums[k] = fma(value, value, sums[k]);
      }
    }
  }
  for (int i = done + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const double value = x[i];
    sums[0] = fma(value, value, sums[0]);
  }
  const double sum = block_sum<kThreads>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) tensors.sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kLastThreads)
    finish_kernel(const double* sums, int64_t count, double* norm) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kLastThreads) sum += sums[i];
  sum = block_sum<kLastThreads>(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

}  // namespace

void global_norm_forward(const GlobalNormForward& g, Context& ctx) {
  int64_t blocks = 0;
  for (const TensorView& gradient : g.gradients) {
    check(gradient.dtype == DType::kF32) ||
        fail("global_norm on the GPU takes f32, got {}", name_of(gradient.dtype));
    blocks += ceil_div(gradient.count(), kChunk);
  }
  const ArenaScope scope(*ctx.arena);
  auto* const sums =
      static_cast<double*>(ctx.arena->allocate(blocks * static_cast<int64_t>(sizeof(double))));
  Tensors tensors;
  tensors.size = 0;
  tensors.sums = sums;
  int blocks_here = 0;
  const auto launch = [&] {
    if (blocks_here == 0) return;
    sum_kernel<<<blocks_here, kThreads, 0, stream(ctx)>>>(tensors);
    check_launch("global_norm");
    tensors.sums += blocks_here;
    tensors.size = blocks_here = 0;
  };
  for (const TensorView& gradient : g.gradients) {
    if (gradient.count() == 0) continue;
    const int i = tensors.size++;
    tensors.first_block[i] = blocks_here;
    tensors.count[i] = gradient.count();
    tensors.data[i] = static_cast<const float*>(gradient.data);
    blocks_here += static_cast<int>(ceil_div(gradient.count(), kChunk));
    if (tensors.size == Tensors::kMost) launch();
  }
  launch();
  finish_kernel<<<1, kLastThreads, 0, stream(ctx)>>>(sums, blocks,
                                                     static_cast<double*>(g.norm.data));
  check_launch("global_norm");
}

}  // namespace rookery::cuda
