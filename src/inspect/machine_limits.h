// What this machine can do at most: the bounds that benches and the training bar compare with.
#pragma once

#include "core/context.h"

namespace rookery {

// Bytes per second of reading `bytes` of memory end to end on all threads, once.
double measure_read_rate(ThreadPool& pool, int64_t bytes);
// Bytes per second, read and written together, of copying `bytes` on all threads, once.
double measure_copy_rate(ThreadPool& pool, int64_t bytes);
// Operations per second of one product C = A B^T of m x k and n x k, with float32 or bfloat16 operands, as the
// linear layer computes it: the library's rate when there is one.
double measure_product_rate(ThreadPool& pool, DType dtype, int64_t m = 2048, int64_t n = 2048, int64_t k = 2048);

// The middle of several measurements; the lower one of the two middles.
double median(std::vector<double> values);

}  // namespace rookery
