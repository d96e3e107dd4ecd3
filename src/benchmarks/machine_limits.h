// What this machine can do at most: the bounds that benches and the training bar compare with.
#pragma once

#include "core/context.h"

namespace rookery {

// Bytes per second of reading `bytes` of memory end to end on all threads, once.
// Of a GPU: its memory, several times.
double measure_read_rate(ThreadPool& pool, int64_t bytes, Device device = Device::kCpu);
// Bytes per second, read and written together, of copying `bytes` on all threads, once.
double measure_copy_rate(ThreadPool& pool, int64_t bytes, Device device = Device::kCpu);
// Operations per second of products of 2048 x 2048 (on a GPU 8192 x 8192) float32 or bfloat16
// matrices, as the linear layer computes them: the library's rate when there is one. The median of
// `repeats` after one that is not counted.
double measure_product_rate(ThreadPool& pool, DType dtype, int repeats,
                            Device device = Device::kCpu);

// The middle of several measurements; the lower one of the two middles.
double median(std::vector<double> values);

}  // namespace rookery
