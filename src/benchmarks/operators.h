// How fast single operators run, against the copy bandwidth of this machine.
#pragma once

#include <cstdint>
#include <optional>

#include "benchmarks/jobs.h"

namespace rookery {

// WKV-4 alone, on `batch` sequences of `context` tokens. It is parallel over time, too: one long
// sequence gives every core work.
struct Wkv4Job {
  int64_t width = 768, context = 8192, batch = 1;
  DType activations = DType::kF32;  // on a GPU or BF16; on the processor always F32
  Device device = Device::kCpu;
  int64_t rounds = 5;
  int64_t bandwidth_bytes = int64_t{1} << 30;  // memory that the bandwidth is measured on
  bool deterministic = false;
};

struct Wkv4Result {
  Throughput tokens;           // of the forward pass
  double copy_bandwidth = 0;   // bytes per second, read and written together
  double forward_seconds = 0;  // median
  // Of a GPU, as training runs it: a forward pass that keeps states, and the backward pass.
  struct Training {
    double forward_seconds = 0, backward_seconds = 0;
    double backward_fraction = 0;  // of the copy bandwidth
  };
  std::optional<Training> training;
};
Wkv4Result measure_wkv4(const Wkv4Job& job, ThreadPool& pool);

}  // namespace rookery
