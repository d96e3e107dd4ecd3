// How fast whole jobs run, each with the limit of this machine that bounds it. Job and limit are
// measured in turns within one run, because a machine's speed changes from minute to minute. Models
// have random weights; no file is needed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "core/context.h"
#include "models/parameters.h"

namespace rookery {

// Tokens per second, and how many the limit would allow.
struct Throughput {
  double rate = 0, bound = 0;
  double fraction() const { return rate / bound; }
};

// Tokens one by one; every step reads all weights, so the read bandwidth is the bound.
struct DecodeJob {
  ModelConfig config;
  DType weights = DType::kF32;  // or BF16, or, on the processor, F16
  Device device = Device::kCpu;
  int64_t batch = 1;     // sequences; more than one on a GPU only
  int64_t tokens = 200;  // steps to measure on the processor, steps of one round on a GPU
  int64_t rounds = 5;    // of which the median counts; on a GPU only
  int64_t bandwidth_bytes = int64_t{1} << 30;  // memory that the bandwidth is measured on
  bool deterministic = false;
  Profile* profile = nullptr;                           // gets the time by operator
  std::function<bool(int64_t tokens_done)> go_on = {};  // every 20 tokens; false: no more
};

struct DecodeResult {
  Throughput tokens;            // of all sequences together
  double read_bandwidth = 0;    // bytes per second
  double bytes_per_step = 0;    // every weight but the embedding once, each state in and out
  double seconds_per_step = 0;  // median
  // On the processor: whether a token late in a text costs more than an early one.
  struct Ageing {
    int64_t steps = 0;                     // that were measured, before the late ones
    double early_rate = 0, late_rate = 0;  // tokens per second, around the 100th and after the last
    int64_t memory_growth = 0;             // bytes of the process over all steps
  };
  std::optional<Ageing> ageing;
};

// Throws Error for a batch of several sequences on the processor and for F16 on a GPU.
DecodeResult measure_decode(const DecodeJob& job, ThreadPool& pool);

// A prompt at once, with the logits after its last token; the matmul rate is the bound.
struct PrefillJob {
  ModelConfig config;
  DType weights = DType::kF32;  // as of DecodeJob; F16 is multiplied as float32
  Device device = Device::kCpu;
  int64_t context = 512;  // tokens of the prompt
  int64_t rounds = 5;
  bool deterministic = false;
  Profile* profile = nullptr;
};

// Training steps on one batch; the matmul rate is the bound.
struct TrainingJob {
  ModelConfig config;
  DType products = DType::kF32;  // or BF16
  Device device = Device::kCpu;
  int64_t context = 512, batch = 4;  // tokens of a window, windows of a step
  int64_t rounds = 5;
  bool gradient_checkpointing = false;
  Profile* profile = nullptr;
};

// Of a prompt or a step.
struct MatmulBound {
  Throughput tokens;
  DType products = DType::kF32;  // whose matmul rate is the bound
  double matmul_rate = 0;        // FLOP per second
  // With gradient checkpointing the second forward pass is not counted: it is a cost, not work that
  // was asked for.
  double flops_per_token = 0;
  double seconds = 0;  // of one prompt or step, median
};
MatmulBound measure_prefill(const PrefillJob& job, ThreadPool& pool);
MatmulBound measure_training(const TrainingJob& job, ThreadPool& pool);

}  // namespace rookery
