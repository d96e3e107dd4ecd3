// The ends and the middle of each schedule, and what is refused.
#include "training/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace rookery {
namespace {

TEST(Schedule, ConstantThenExponential) {
  ScheduleOptions options;
  options.kind = ScheduleKind::kConstantThenExponential;
  options.rate = 6e-4;
  options.final_rate = 1e-5;
  options.constant_steps = 361;
  options.total_steps = 1000;
  for (const int64_t step : {0, 100, 360}) EXPECT_EQ(learning_rate(options, step), 6e-4) << step;
  EXPECT_LT(learning_rate(options, 361), 6e-4);
  EXPECT_NEAR(learning_rate(options, 999), 1e-5, 1e-17);
  EXPECT_NEAR(learning_rate(options, 5000), 1e-5, 1e-17);
  // Every step of the decay divides by the same factor.
  const double factor = std::pow(1e-5 / 6e-4, 1.0 / 639);
  for (const int64_t step : {361, 362, 700, 999}) {
    EXPECT_NEAR(learning_rate(options, step) / learning_rate(options, step - 1), factor, 1e-12)
        << step;
  }
  options.warmup_steps = 10;
  EXPECT_NEAR(learning_rate(options, 0), 6e-6, 1e-18);
  EXPECT_NEAR(learning_rate(options, 5), 6e-4 * 0.505, 1e-16);
  EXPECT_EQ(learning_rate(options, 10), 6e-4);
  // The constant phase counts the warm-up, and is never shorter.
  EXPECT_EQ(learning_rate(options, 360), 6e-4);
  EXPECT_LT(learning_rate(options, 361), 6e-4);
  options.warmup_steps = 400;
  EXPECT_EQ(learning_rate(options, 399) / (0.01 + 0.99 * 399 / 400), 6e-4);
  EXPECT_LT(learning_rate(options, 400), 6e-4);
}

TEST(Schedule, Cosine) {
  ScheduleOptions options;
  options.kind = ScheduleKind::kCosine;
  options.rate = 6e-4;
  options.final_rate = 6e-5;
  options.warmup_steps = 10;
  options.total_steps = 1010;
  EXPECT_NEAR(learning_rate(options, 0), 6e-6, 1e-18);
  EXPECT_NEAR(learning_rate(options, 9), 6e-4 * (0.01 + 0.99 * 0.9), 1e-16);
  EXPECT_NEAR(learning_rate(options, 10), 6e-4, 1e-18);
  EXPECT_NEAR(learning_rate(options, 510), 3.3e-4, 1e-16);
  EXPECT_NEAR(learning_rate(options, 1010), 6e-5, 1e-18);
  EXPECT_NEAR(learning_rate(options, 9999), 6e-5, 1e-18);
  EXPECT_GT(learning_rate(options, 1009), 6e-5);
  for (int64_t step = 11; step <= 1010; ++step) {
    EXPECT_LT(learning_rate(options, step), learning_rate(options, step - 1));
    // The reference's own form of the same curve.
    const double f = 0.1, progress = (step - 10) / 1000.0;
    EXPECT_NEAR(learning_rate(options, step),
                6e-4 * ((0.5 + f / 2) + (0.5 - f / 2) * std::cos(std::numbers::pi * progress)),
                1e-17);
  }
  options.final_rate = 0;
  EXPECT_NEAR(learning_rate(options, 1010), 0, 1e-18);
}

TEST(Schedule, Constant) {
  ScheduleOptions options;
  options.kind = ScheduleKind::kConstant;
  options.rate = 1e-3;
  options.warmup_steps = 100;
  EXPECT_NEAR(learning_rate(options, 0), 1e-5, 1e-18);
  EXPECT_EQ(learning_rate(options, 100), 1e-3);
  EXPECT_EQ(learning_rate(options, int64_t{1} << 40), 1e-3);
}

TEST(Schedule, RefusesWhatDoesNotFit) {
  const std::vector<std::function<void(ScheduleOptions&)>> mistakes = {
      [](ScheduleOptions& o) { o.rate = 0; },
      [](ScheduleOptions& o) { o.rate = std::nan(""); },
      [](ScheduleOptions& o) { o.final_rate = -1; },
      [](ScheduleOptions& o) { o.total_steps = 0; },
      [](ScheduleOptions& o) { o.warmup_steps = -1; },
      [](ScheduleOptions& o) { o.warmup_steps = 100; },
      [](ScheduleOptions& o) { o.constant_steps = -1; },
      [](ScheduleOptions& o) {
        o.kind = ScheduleKind::kConstantThenExponential;
        o.constant_steps = 100;
      },
      [](ScheduleOptions& o) {
        o.kind = ScheduleKind::kConstantThenExponential;
        o.final_rate = 0;
      },
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    ScheduleOptions options;
    options.total_steps = 100;
    EXPECT_NO_THROW(validate(options));
    mistakes[i](options);
    EXPECT_THROW(validate(options), Error) << i;
    EXPECT_THROW(learning_rate(options, 0), Error) << i;
  }
  ScheduleOptions good;
  good.total_steps = 100;
  EXPECT_THROW(learning_rate(good, -1), Error);
}

TEST(Schedule, NamesGoBothWays) {
  for (const auto kind :
       {ScheduleKind::kConstantThenExponential, ScheduleKind::kCosine, ScheduleKind::kConstant}) {
    EXPECT_EQ(parse_schedule_kind(name_of(kind)), kind);
  }
  EXPECT_EQ(name_of(ScheduleKind::kConstantThenExponential), "constant-exponential");
  EXPECT_THROW(parse_schedule_kind("linear"), Error);
}

}  // namespace
}  // namespace rookery
