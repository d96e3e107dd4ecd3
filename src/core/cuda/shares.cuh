// Sums over all rows, as gradients of parameters are: each block of a kernel leaves its share, and
// the shares are added here, in an order that does not change from run to run. Only .cu files
// include this.
#pragma once

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

// Where the sums of several parameters of one width go; null: not wanted.
struct ShareSums {
  static constexpr int kMost = 6;

  float* out[kMost] = {};
  bool accumulate[kMost] = {};

  void set(int i, const GradView& view) {
    out[i] = static_cast<float*>(view.data);
    accumulate[i] = view.accumulate;
  }
};

// Channels along x of the block; along y groups, each of which adds every kGroups-th share.
template <int kGroups>
__global__ void __launch_bounds__(kWarp* kGroups)
    add_shares_kernel(const float* shares, int64_t count, int64_t width,
                      const __grid_constant__ ShareSums sums) {
  const int64_t outputs = gridDim.y, output = blockIdx.y;
  float* const out = sums.out[output];
  if (out == nullptr) return;  // the whole block
  __shared__ float of_groups[kGroups][kWarp];
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float sum = 0;
  if (c < width) {
#pragma unroll 8
    for (int64_t i = threadIdx.y; i < count; i += kGroups) {
      sum += shares[(i * outputs + output) * width + c];
    }
  }
  of_groups[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= width) return;
  sum = sums.accumulate[output] ? out[c] : 0.0f;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) sum += of_groups[group][threadIdx.x];
  out[c] = sum;
}

// shares [count, outputs, width], outputs <= ShareSums::kMost. No shares: the sums are 0.
inline void add_shares(const Context& ctx, const char* name, const float* shares, int64_t count,
                       int outputs, int64_t width, const ShareSums& sums) {
  constexpr int kGroups = 32;
  if (width == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(width, kWarp)), outputs);
  add_shares_kernel<kGroups>
      <<<grid, dim3(kWarp, kGroups), 0, stream(ctx)>>>(shares, count, width, sums);
  check_launch(name);
}

}  // namespace rookery::cuda
