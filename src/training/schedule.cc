// The formulas of schedule.h, in its notation.
#include "training/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace rookery {
namespace {

constexpr std::array<std::pair<ScheduleKind, std::string_view>, 3> kScheduleKinds = {{
    {ScheduleKind::kConstantThenExponential, "constant-exponential"},
    {ScheduleKind::kCosine, "cosine"},
    {ScheduleKind::kConstant, "constant"},
}};

// The steps before the decay begins.
int64_t steps_before_decay(const ScheduleOptions& options) {
  return options.kind == ScheduleKind::kConstantThenExponential
             ? std::max(options.constant_steps, options.warmup_steps)
             : options.warmup_steps;
}

}  // namespace

std::string_view name_of(ScheduleKind kind) {
  return kScheduleKinds[static_cast<size_t>(kind)].second;
}

ScheduleKind parse_schedule_kind(std::string_view text) {
  for (const auto& [kind, name] : kScheduleKinds) {
    if (text == name) return kind;
  }
  fail("unknown learning rate schedule '{}': expected constant-exponential, cosine or constant",
       text);
}

void validate(const ScheduleOptions& options) {
  check(options.rate > 0 && std::isfinite(options.rate)) ||
      fail("the learning rate is {}: expected a positive number, for example 6e-4", options.rate);
  check(options.warmup_steps >= 0) ||
      fail("the warm-up is {} steps: expected 0 or more", options.warmup_steps);
  if (options.kind == ScheduleKind::kConstant) return;

  const bool exponential = options.kind == ScheduleKind::kConstantThenExponential;
  check(options.final_rate >= 0 && std::isfinite(options.final_rate)) ||
      fail("the final learning rate is {}: expected 0 or more, for example 6e-5",
           options.final_rate);
  check(!exponential || options.final_rate > 0) ||
      fail(
          "the final learning rate is 0, which no exponential decay reaches: give a positive one "
          "or use the cosine schedule");
  check(options.constant_steps >= 0) ||
      fail("the constant phase is {} steps: expected 0 or more", options.constant_steps);
  check(steps_before_decay(options) < options.total_steps) ||
      fail(
          "the run has {} steps, of which {} come before the learning rate decays: expected fewer "
          "than all; train longer, shorten the warm-up or the constant phase, or use the constant "
          "schedule",
          options.total_steps, steps_before_decay(options));
}

double learning_rate(const ScheduleOptions& options, int64_t step) {
  validate(options);
  check(step >= 0) || fail("there is no learning rate for step {}: expected 0 or more", step);

  double rate = options.rate;
  if (options.kind != ScheduleKind::kConstant) {
    const bool exponential = options.kind == ScheduleKind::kConstantThenExponential;
    const int64_t before = steps_before_decay(options);
    const double done = static_cast<double>(step - before) + (exponential ? 1 : 0);
    const double x = std::clamp(done / static_cast<double>(options.total_steps - before), 0.0, 1.0);
    rate = exponential ? options.rate * std::pow(options.final_rate / options.rate, x)
                       : options.final_rate + (options.rate - options.final_rate) *
                                                  (1 + std::cos(std::numbers::pi * x)) / 2;
  }
  if (step < options.warmup_steps) {
    rate *= 0.01 + 0.99 * static_cast<double>(step) / static_cast<double>(options.warmup_steps);
  }
  return rate;
}

}  // namespace rookery
