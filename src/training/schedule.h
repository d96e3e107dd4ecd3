// The learning rate of each training step.
//
// Steps count from 0. With W = warmup_steps, C = constant_steps, N = total_steps:
//   constant-exponential   rate (final_rate / rate)^x
//                          x = (step + 1 - max(C, W)) / (N - max(C, W))
//   cosine                 final_rate + (rate - final_rate) (1 + cos(pi x)) / 2
//                          x = (step - W) / (N - W)
//   constant               rate
// with x limited to 0 .. 1, and during the first W steps all times 0.01 + 0.99 step / W.
// The first is the recipe of the RWKV-4 paper (arXiv 2305.13048); its last step, N - 1, runs at
// final_rate. The second and the warm-up are those of the RWKV-7 reference trainer; step N, which
// is not run any more, would be at final_rate.
#pragma once

#include <cstdint>
#include <string_view>

namespace rookery {

enum class ScheduleKind : uint8_t { kConstantThenExponential, kCosine, kConstant };

// "constant-exponential", "cosine", "constant". The parser throws Error for anything else.
std::string_view name_of(ScheduleKind kind);
ScheduleKind parse_schedule_kind(std::string_view text);

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::kCosine;
  double rate = 6e-4;
  double final_rate = 6e-5;  // not used by kConstant
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;     // kConstant needs none
  int64_t constant_steps = 0;  // kConstantThenExponential only; counts the warm-up
};

// Throws Error naming the first option that does not fit.
void validate(const ScheduleOptions& options);

// The rate of `step`, 0 or more; steps after the last keep the last rate. Throws Error as
// validate() does.
double learning_rate(const ScheduleOptions& options, int64_t step);

}  // namespace rookery
