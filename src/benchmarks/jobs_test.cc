// What jobs report besides time, which no test can know: counts of bytes and operations by hand,
// and how they end.
#include "benchmarks/jobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "benchmarks/machine_limits.h"
#include "benchmarks/operators.h"
#include "benchmarks/random_model.h"
#include "benchmarks/tokenizing.h"
#include "core/timing.h"
#include "models/model.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

constexpr int64_t kLayers = 2, kWidth = 32, kVocabulary = 64;
constexpr int64_t kMemory = int64_t{8} << 20;

ModelConfig config() { return make_config("4", kLayers, kWidth, kVocabulary); }

// Multiplications and additions of a token in the matrices of RWKV-4's blocks: four of C x C in
// time mixing, C x 4C, 4C x C and C x C in channel mixing.
constexpr double kBlockFlops = 2.0 * kLayers * (4 + 4 + 4 + 1) * kWidth * kWidth;
constexpr double kHeadFlops = 2.0 * kVocabulary * kWidth;

void expect_rate(const Throughput& tokens) {
  EXPECT_GT(tokens.rate, 0);
  EXPECT_GT(tokens.bound, 0);
  EXPECT_DOUBLE_EQ(tokens.fraction(), tokens.rate / tokens.bound);
}

TEST(Timing, MedianIsTheLowerMiddle) {
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({5, 1, 3}), 3);
  EXPECT_EQ(median({4, 1, 3, 2}), 2);
  EXPECT_THROW(median({}), Error);
}

TEST(Timing, RestartReturnsTheTimeUntilThen) {
  Stopwatch watch;
  const double before = watch.seconds(), elapsed = watch.restart(), after = watch.seconds();
  EXPECT_GE(elapsed, before);
  EXPECT_GE(after, 0);
}

TEST(Benchmarks, DecodingCountsTheBytesOfAStep) {
  ThreadPool pool(1);
  std::vector<int64_t> asked;
  const DecodeResult result = measure_decode({.config = config(),
                                              .tokens = 100,
                                              .bandwidth_bytes = kMemory,
                                              .go_on =
                                                  [&](int64_t done) {
                                                    asked.push_back(done);
                                                    return done < 40;
                                                  }},
                                             pool);
  EXPECT_EQ(asked, (std::vector<int64_t>{0, 20, 40}));
  ASSERT_TRUE(result.ageing.has_value());
  EXPECT_EQ(result.ageing->steps, 40);
  EXPECT_GT(result.ageing->early_rate, 0);
  EXPECT_GT(result.ageing->late_rate, 0);
  // Five numbers of state for each channel of each layer, read and written; the embedding's row is
  // not counted.
  const int64_t parameters = Model::planned(config()).parameter_count();
  EXPECT_EQ(result.bytes_per_step,
            4 * (parameters - kVocabulary * kWidth) + 2 * 4 * 5 * kLayers * kWidth);
  expect_rate(result.tokens);
  EXPECT_DOUBLE_EQ(result.tokens.bound, result.read_bandwidth / result.bytes_per_step);
  EXPECT_DOUBLE_EQ(result.tokens.rate, 1 / result.seconds_per_step);
}

TEST(Benchmarks, DecodingInBFloat16ReadsHalfOfTheMatrices) {
  ThreadPool pool(1);
  DecodeJob job{.config = config(), .tokens = 1, .bandwidth_bytes = kMemory};
  const double f32 = measure_decode(job, pool).bytes_per_step;
  job.weights = DType::kBF16;
  const double matrices = (kBlockFlops + kHeadFlops) / 2;  // elements
  EXPECT_EQ(f32 - measure_decode(job, pool).bytes_per_step, 2 * matrices);
}

TEST(Benchmarks, DecodingRefusesWhatTheProcessorDoesNotMeasure) {
  ThreadPool pool(1);
  EXPECT_THROW(measure_decode({.config = config(), .batch = 2}, pool), Error);
  EXPECT_THROW(measure_decode({.config = config(), .go_on = [](int64_t) { return false; }}, pool),
               Error);
}

TEST(Benchmarks, PrefillCountsTheHeadOnce) {
  ThreadPool pool(1);
  constexpr int64_t kContext = 16;
  Profile profile;
  const MatmulBound result = measure_prefill(
      {.config = config(), .context = kContext, .rounds = 1, .profile = &profile}, pool);
  EXPECT_DOUBLE_EQ(result.flops_per_token, kBlockFlops + kHeadFlops / kContext);
  EXPECT_DOUBLE_EQ(result.tokens.rate, kContext / result.seconds);
  EXPECT_DOUBLE_EQ(result.tokens.bound, result.matmul_rate / result.flops_per_token);
  EXPECT_EQ(profile.entries.at("wkv4").calls, kLayers);
}

TEST(Benchmarks, TrainingCountsForwardAndBackward) {
  ThreadPool pool(1);
  const MatmulBound result = measure_training({.config = config(),
                                               .products = DType::kBF16,
                                               .context = 8,
                                               .batch = 2,
                                               .rounds = 1,
                                               .gradient_checkpointing = true},
                                              pool);
  EXPECT_EQ(result.products, DType::kBF16);
  EXPECT_DOUBLE_EQ(result.flops_per_token, 3 * (kBlockFlops + kHeadFlops));
  EXPECT_DOUBLE_EQ(result.tokens.rate, 8 * 2 / result.seconds);
  expect_rate(result.tokens);
}

TEST(Benchmarks, Wkv4IsBoundByThreeTensors) {
  ThreadPool pool(1);
  const Wkv4Result result = measure_wkv4(
      {.width = 16, .context = 24, .batch = 2, .rounds = 1, .bandwidth_bytes = kMemory}, pool);
  EXPECT_DOUBLE_EQ(result.tokens.rate, 2 * 24 / result.forward_seconds);
  EXPECT_DOUBLE_EQ(result.tokens.bound, result.copy_bandwidth / (3 * 4 * 16));
  EXPECT_FALSE(result.training.has_value());
}

TEST(Benchmarks, TokenizingCountsEveryByteOnce) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "line " + std::to_string(i) + "\n";
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const TokenizingResult result =
        measure_tokenizing(text, ByteTokenizer(), 2, kMemory, pool, [] { return true; });
    EXPECT_EQ(result.tokens, static_cast<int64_t>(text.size()));
    EXPECT_EQ(result.rounds, 2);
    EXPECT_GE(result.best_encode_rate, result.encode_rate);
    EXPECT_GT(result.decode_rate, 0);
  }
  ThreadPool pool(1);
  EXPECT_THROW(measure_tokenizing("", ByteTokenizer(), 2, kMemory, pool), Error);
  EXPECT_THROW(measure_tokenizing(text, ByteTokenizer(), 2, kMemory, pool, [] { return false; }),
               Error);
}

TEST(Benchmarks, LimitsAreMeasuredInTurns) {
  ThreadPool pool(1);
  const MachineLimits limits = measure_limits(pool, kMemory, 0);
  EXPECT_EQ(limits.rounds, 1);
  for (const double limit : {limits.read_bandwidth, limits.copy_bandwidth, limits.f32_matmul_rate,
                             limits.bf16_matmul_rate}) {
    EXPECT_GT(limit, 1e6);
  }
}

TEST(Benchmarks, RandomModelsHaveNoZeros) {
  ThreadPool pool(1);
  const Model model = random_model(config(), DType::kF32, Device::kCpu, pool);
  for (const Parameter& parameter : model.parameters()) {
    const auto* numbers = static_cast<const float*>(parameter.value.data);
    EXPECT_EQ(std::count(numbers, numbers + parameter.value.count(), 0.0f), 0)
        << parameter.spec.name;
  }
  const std::vector<int32_t> tokens = random_tokens(1000, 7);
  EXPECT_EQ(*std::min_element(tokens.begin(), tokens.end()), 0);
  EXPECT_EQ(*std::max_element(tokens.begin(), tokens.end()), 6);
  EXPECT_EQ(random_tokens(1000, 7), tokens);
}

TEST(Benchmarks, RandomFillerRepeatsItsNumbers) {
  const RandomFiller filler;
  std::vector<float> numbers(3'000'000), again(3'000'000);
  filler.fill({numbers.data(), DType::kF32, {3'000'000}}, 2, 5);
  filler.fill({again.data(), DType::kF32, {3'000'000}}, 1, 0);
  double sum = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    ASSERT_NEAR(numbers[i], 2 * again[i] + 5, 1e-5);
    sum += numbers[i];
  }
  EXPECT_NEAR(sum / 3e6, 5, 0.01);
  std::vector<BFloat16> low(3);
  filler.fill({low.data(), DType::kBF16, {3}}, 1, 0);
  for (size_t i = 0; i < low.size(); ++i) EXPECT_EQ(low[i].bits, to_bfloat16(again[i]).bits);
}

}  // namespace
}  // namespace rookery
