// What this machine can do at most: the bounds that jobs and the training bar are compared with.
#pragma once

#include "core/context.h"

namespace rookery {

// Bytes per second of reading `bytes` of memory end to end on all threads, once.
// Of a GPU: its memory, several times.
double measure_read_rate(ThreadPool& pool, int64_t bytes, Device device = Device::kCpu);
// Bytes per second, read and written together, of copying `bytes` on all threads, once.
double measure_copy_rate(ThreadPool& pool, int64_t bytes, Device device = Device::kCpu);
// The size of the square matrices that the matmul rate is measured with.
constexpr int64_t product_size(Device device) { return device == Device::kCuda ? 8192 : 2048; }
// FLOP per second of products of float32 or bfloat16 matrices, as the linear layer computes them:
// the library's rate when there is one. The median of `repeats` after one that is not counted.
double measure_product_rate(ThreadPool& pool, DType dtype, int repeats,
                            Device device = Device::kCpu);

// All of them.
struct MachineLimits {
  double read_bandwidth = 0, copy_bandwidth = 0;     // bytes per second
  double f32_matmul_rate = 0, bf16_matmul_rate = 0;  // FLOP per second
  int64_t rounds = 0;                                // whose medians these are
};
// Measures them in turns, 2 * rounds + 1 times.
MachineLimits measure_limits(ThreadPool& pool, int64_t bandwidth_bytes, int64_t rounds,
                             Device device = Device::kCpu);

}  // namespace rookery
