// Every cut against its definition by sorting; draws against probabilities; penalties against sums
// by hand.
#include "inference/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "core/error.h"

namespace rookery {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Normal logits; with `grid` they are rounded to it, so that many are equal.
std::vector<float> random_logits(int64_t vocabulary, uint64_t seed, double spread = 3,
                                 double grid = 0) {
  Random random(seed);
  std::vector<float> logits;
  for (int64_t i = 0; i < vocabulary; ++i) {
    const double x = spread * random.normal();
    logits.push_back(static_cast<float>(grid > 0 ? std::round(x / grid) * grid : x));
  }
  return logits;
}

using Probabilities = std::vector<double>;  // [vocabulary], 0 for what was cut

Probabilities softmax(const std::vector<float>& logits, double temperature) {
  const double top = *std::max_element(logits.begin(), logits.end());
  Probabilities p;
  for (const float x : logits) p.push_back(std::exp((x - top) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

void normalise(Probabilities& p) {
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
}

std::vector<size_t> sorted_by(const Probabilities& p, const std::function<double(size_t)>& key) {
  std::vector<size_t> ids;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) ids.push_back(i);
  }
  std::stable_sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return key(a) > key(b); });
  return ids;
}

// Keeps the ids with the largest keys until their sum reaches `mass`, and those that equal the
// last.
void naive_mass_cut(Probabilities& p, const std::function<double(size_t)>& key, double mass) {
  const std::vector<size_t> ids = sorted_by(p, key);
  double sum = 0;
  size_t last = 0;
  for (; last < ids.size(); ++last) {
    sum += p[ids[last]];
    if (sum >= mass) break;
  }
  if (last == ids.size()) --last;
  const double threshold = key(ids[last]);
  Probabilities kept(p.size(), 0);
  for (const size_t id : ids) {
    if (key(id) >= threshold) kept[id] = p[id];
  }
  p = kept;
}

void naive_top_p(Probabilities& p, double mass) {
  const Probabilities key = p;
  naive_mass_cut(
      p, [&](size_t i) { return key[i]; }, mass);
}

void naive_top_k(Probabilities& p, int64_t k) {
  const Probabilities key = p;
  const std::vector<size_t> ids = sorted_by(p, [&](size_t i) { return key[i]; });
  for (size_t i = k; i < ids.size(); ++i) p[ids[i]] = 0;
}

void naive_min_p(Probabilities& p, double ratio) {
  const double top = *std::max_element(p.begin(), p.end());
  for (double& x : p) {
    if (x < ratio * top) x = 0;
  }
}

void naive_typical(Probabilities& p, double mass) {
  normalise(p);
  double entropy = 0;
  for (const double x : p) {
    if (x > 0) entropy -= x * std::log(x);
  }
  const Probabilities before = p;
  naive_mass_cut(
      p, [&](size_t i) { return -std::abs(-std::log(before[i]) - entropy); }, mass);
}

Probabilities naive_distribution(const std::vector<float>& logits, const SamplerOptions& options) {
  const bool last = options.temperature_order == TemperatureOrder::kLast;
  Probabilities p = softmax(logits, last ? 1 : options.temperature);
  if (last && options.top_p < 1) naive_top_p(p, options.top_p);
  if (options.top_k > 0) naive_top_k(p, options.top_k);
  normalise(p);
  if (!last && options.top_p < 1) naive_top_p(p, options.top_p);
  naive_min_p(p, options.min_p);
  if (options.typical_p < 1) naive_typical(p, options.typical_p);
  if (last) {
    for (double& x : p) x = x > 0 ? std::pow(x, 1 / options.temperature) : 0;
  }
  normalise(p);
  return p;
}

void expect_definition(const std::vector<float>& logits, const SamplerOptions& options) {
  const Probabilities expected = naive_distribution(logits, options);
  const auto got = Sampler(options).distribution(logits);
  size_t survivors = 0;
  for (const double p : expected) survivors += p > 0;
  ASSERT_EQ(got.size(), survivors);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(i == 0 || got[i - 1].first < got[i].first);
    ASSERT_NEAR(got[i].second, expected[got[i].first], 1e-9);
    ASSERT_GT(expected[got[i].first], 0);
  }
}

TEST(Sampler, EveryCutFollowsItsDefinition) {
  for (const auto order : {TemperatureOrder::kLast, TemperatureOrder::kFirst}) {
    for (const double temperature : {0.3, 1.0, 2.5}) {
      for (uint64_t seed = 0; seed < 6; ++seed) {
        for (const double grid : {0.0, 0.5}) {
          const std::vector<float> logits = random_logits(500 + 37 * seed, seed, 3, grid);
          SamplerOptions base;
          base.temperature_order = order;
          base.temperature = temperature;
          SCOPED_TRACE(testing::Message() << name_of(order) << " T " << temperature << " seed "
                                          << seed << " grid " << grid);
          expect_definition(logits, base);
          for (const double p : {0.0, 0.1, 0.3, 0.5, 0.85, 0.99, 0.9999}) {
            SamplerOptions options = base;
            options.top_p = p;
            expect_definition(logits, options);
          }
          for (const int64_t k : {1, 2, 7, 100, 100000}) {
            SamplerOptions options = base;
            options.top_k = k;
            expect_definition(logits, options);
          }
          for (const double p : {0.01, 0.1, 0.7, 1.0}) {
            SamplerOptions options = base;
            options.min_p = p;
            expect_definition(logits, options);
          }
          if (grid > 0) continue;  // rounding decides between equal deviations from the entropy
          for (const double p : {0.05, 0.2, 0.5, 0.95}) {
            SamplerOptions options = base;
            options.typical_p = p;
            expect_definition(logits, options);
          }
        }
      }
    }
  }
}

TEST(Sampler, CutsCombineInTheDocumentedOrder) {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> logits = random_logits(1 + random.below(800), round, 4);
    SamplerOptions options;
    options.temperature_order = round % 2 ? TemperatureOrder::kFirst : TemperatureOrder::kLast;
    options.temperature = 0.2 + 2 * random.uniform();
    options.top_p = random.uniform();
    options.top_k = 1 + random.below(50);
    options.min_p = 0.1 * random.uniform();
    options.typical_p = 0.3 + 0.7 * random.uniform();
    SCOPED_TRACE(round);
    expect_definition(logits, options);
  }
}

// Bias, penalties and bans must give what logits changed beforehand give.
TEST(Sampler, AdjustedLogitsGiveTheSameDistribution) {
  for (const float strength : {0.7f, 30.0f, 500.0f}) {
    for (const auto order : {TemperatureOrder::kLast, TemperatureOrder::kFirst}) {
      std::vector<float> logits = random_logits(300, 4);
      const int64_t best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      SamplerOptions options;
      options.temperature_order = order;
      options.temperature = 0.9;
      options.top_p = 0.95;
      options.min_p = 1e-3;
      options.typical_p = 0.9;
      SamplerOptions adjusting = options;
      for (const float sign : {1.0f, -1.0f}) {
        adjusting.logit_bias = {{best, sign * strength}, {3, 1.0f}};
        adjusting.banned = {5};
        std::vector<float> adjusted = logits;
        adjusted[best] += sign * strength;
        adjusted[3] += 1;
        adjusted[5] = -kInfinity;
        const auto got = Sampler(adjusting).distribution(logits);
        const auto expected = Sampler(options).distribution(adjusted);
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(got[i].first, expected[i].first);
          EXPECT_NEAR(got[i].second, expected[i].second, 1e-12);
        }
      }
    }
  }
}

TEST(Sampler, TopPKeepsWhatEqualsTheLast) {
  SamplerOptions options;
  options.top_p = 0.5;
  Sampler sampler(options);
  // 0.4, then three of 0.2: the first of these reaches 0.5, the others equal it.
  const std::vector<float> logits = {std::log(0.2f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.2f)};
  EXPECT_EQ(sampler.distribution(logits).size(), 4u);
  options.top_k = 2;  // the lower id of equals
  const auto two = Sampler(options).distribution(logits);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].first, 0);
  EXPECT_EQ(two[1].first, 1);
}

// One option at a time, with probabilities that a reader can check.
TEST(Sampler, EachOptionByHand) {
  std::vector<float> logits;
  for (const double p : {0.125, 0.5, 0.25, 0.0625, 0.0625}) {
    logits.push_back(static_cast<float>(std::log(p)));
  }
  const auto expect = [&](SamplerOptions options,
                          const std::vector<std::pair<int64_t, double>>& expected) {
    const auto got = Sampler(std::move(options)).distribution(logits);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].first, expected[i].first);
      EXPECT_NEAR(got[i].second, expected[i].second, 1e-6) << got[i].first;
    }
  };
  expect({}, {{0, 0.125}, {1, 0.5}, {2, 0.25}, {3, 0.0625}, {4, 0.0625}});
  // Squares: 4, 64, 16, 1 and 1 of 86.
  expect({.temperature = 0.5},
         {{0, 4 / 86.0}, {1, 64 / 86.0}, {2, 16 / 86.0}, {3, 1 / 86.0}, {4, 1 / 86.0}});
  expect({.top_p = 0.749}, {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect({.top_p = 0.751}, {{0, 1 / 7.0}, {1, 4 / 7.0}, {2, 2 / 7.0}});
  expect({.top_p = 0}, {{1, 1}});
  expect({.top_k = 2}, {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect({.top_k = 4}, {{0, 2 / 15.0}, {1, 8 / 15.0}, {2, 4 / 15.0}, {3, 1 / 15.0}});
  expect({.min_p = 0.24}, {{0, 1 / 7.0}, {1, 4 / 7.0}, {2, 2 / 7.0}});
  expect({.min_p = 0.26}, {{1, 2 / 3.0}, {2, 1 / 3.0}});
  // Entropy 1.875 bits; surprises 3, 1, 2, 4 and 4: 2 is the nearest, then 1, then 3.
  expect({.typical_p = 0.2}, {{2, 1}});
  expect({.typical_p = 0.7}, {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect({.typical_p = 0.8}, {{0, 1 / 7.0}, {1, 4 / 7.0}, {2, 2 / 7.0}});
  // The temperature before the cuts: of 4, 64, 16, 1 and 1 of 86 the first two hold 0.93.
  expect({.temperature = 0.5, .top_p = 0.9, .temperature_order = TemperatureOrder::kFirst},
         {{1, 0.8}, {2, 0.2}});
  // And after: the first three hold 0.875, so the fourth and its equal stay, too.
  expect({.temperature = 0.5, .top_p = 0.9},
         {{0, 4 / 86.0}, {1, 64 / 86.0}, {2, 16 / 86.0}, {3, 1 / 86.0}, {4, 1 / 86.0}});
  expect({.logit_bias = {{3, static_cast<float>(std::log(4))}}},
         {{0, 2 / 19.0}, {1, 8 / 19.0}, {2, 4 / 19.0}, {3, 4 / 19.0}, {4, 1 / 19.0}});
  expect({.banned = {1}}, {{0, 0.25}, {2, 0.5}, {3, 0.125}, {4, 0.125}});
}

// Typical sampling that takes the most probable token away, and a temperature at which the weights
// of all others would vanish beside its own.
TEST(Sampler, ASmallTemperatureAfterACutOfTheBest) {
  std::vector<float> logits(601, static_cast<float>(std::log(0.001)));
  logits[7] = static_cast<float>(std::log(0.4));
  // Entropy 4.51: the surprise of the best is 0.92, that of the others 6.91.
  SamplerOptions options;
  options.typical_p = 0.5;
  options.temperature = 0.005;
  logits[3] += 0.01f;
  const auto got = Sampler(options).distribution(logits);
  ASSERT_GT(got.size(), 400u);
  ASSERT_EQ(got[3].first, 3);
  for (const auto& [id, probability] : got) {
    EXPECT_NE(id, 7);
    if (id == 3) continue;
    EXPECT_NEAR(got[3].second / probability, std::exp(2), 0.01);  // 0.01 / 0.005
  }
  Sampler sampler(options);
  for (int i = 0; i < 20; ++i) EXPECT_NE(sampler.sample(logits).id, 7);

  // The best survivor need not be the first.
  const auto one = Sampler({.temperature = 0.005}).distribution(std::vector<float>{0, 5, 0});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0], (std::pair<int64_t, double>{1, 1.0}));
}

TEST(Sampler, DrawsAsOftenAsProbable) {
  SamplerOptions options;
  options.temperature = 0.8;
  options.top_p = 0.95;
  options.seed = 42;
  const std::vector<float> logits = random_logits(50, 3, 1.5);
  Sampler sampler(options);
  const auto distribution = sampler.distribution(logits);
  std::vector<int64_t> counts(logits.size(), 0);
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits).id];
  // Pearson's chi-squared: mean n, variance 2 n for n degrees of freedom; five standard deviations.
  double chi_squared = 0;
  int64_t counted = 0;
  for (const auto& [id, p] : distribution) {
    chi_squared += std::pow(counts[id] - kDraws * p, 2) / (kDraws * p);
    EXPECT_NEAR(counts[id], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)) + 1) << id;
    counted += counts[id];
  }
  EXPECT_EQ(counted, kDraws) << "an id outside the distribution was drawn";
  const double freedom = static_cast<double>(distribution.size()) - 1;
  EXPECT_LT(chi_squared, freedom + 5 * std::sqrt(2 * freedom));
  EXPECT_GT(chi_squared, freedom - 5 * std::sqrt(2 * freedom));
}

TEST(Sampler, LargeVocabularyAgainstTheDefinition) {
  const std::vector<float> logits = random_logits(65536, 9);
  SamplerOptions options;
  options.top_p = 0.85;
  options.temperature = 1.3;
  expect_definition(logits, options);
  options.top_p = 1;
  options.top_k = 100;
  options.temperature_order = TemperatureOrder::kFirst;
  expect_definition(logits, options);
}

TEST(Sampler, SeedRepeatsAndStateContinues) {
  SamplerOptions options;
  options.frequency = 0.5;
  options.presence = 0.3;
  options.seed = 7;
  const std::vector<float> logits = random_logits(300, 1);
  const auto draw = [&](Sampler& sampler, int count) {
    std::vector<int64_t> ids;
    for (int i = 0; i < count; ++i) {
      ids.push_back(sampler.sample(logits).id);
      sampler.accept(ids.back());
    }
    return ids;
  };
  Sampler first(options), second(options);
  EXPECT_EQ(draw(first, 50), draw(second, 50));
  Sampler third(options);
  third.restore(first.state());
  EXPECT_EQ(third.state().penalties, first.state().penalties);
  EXPECT_EQ(draw(first, 50), draw(third, 50));
  options.seed = 8;
  Sampler other(options);
  EXPECT_NE(draw(other, 50), draw(second, 50));
}

TEST(Sampler, TemperatureZeroTakesTheBestAndTheLowestOfEquals) {
  SamplerOptions options;
  options.temperature = 0;
  options.top_p = 0.1;
  Sampler sampler(options);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 3, 5}).id, 1);
  EXPECT_EQ(sampler.state().random_position, 0u);
  ASSERT_EQ(sampler.distribution(std::vector<float>{1, 5, 3, 5}).size(), 1u);
  options.banned = {1};
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{1, 5, 3, 5}).id, 3);
}

TEST(Sampler, ExtremeTemperatures) {
  for (const auto order : {TemperatureOrder::kLast, TemperatureOrder::kFirst}) {
    for (const double temperature : {1e-320, 1e-300, 1e-6, 1e300}) {
      SamplerOptions options;
      options.temperature_order = order;
      options.temperature = temperature;
      options.typical_p = 0.9;
      Sampler sampler(options);
      const std::vector<float> logits = {-300, 2, 700, -kInfinity, 1};
      for (int i = 0; i < 20; ++i) {
        const int64_t id = sampler.sample(logits).id;
        EXPECT_NE(id, 3);
        EXPECT_TRUE(temperature > 1 || id == 2) << id;
      }
    }
  }
}

TEST(Sampler, LogProbabilitiesAreOfTheUntouchedSoftmax) {
  const std::vector<float> logits = random_logits(1000, 2);
  const Probabilities p = softmax(logits, 1);
  SamplerOptions options;
  options.temperature = 0.5;
  options.top_k = 3;
  options.logit_bias = {{17, 30.0f}};
  const Sampler::Choice choice = Sampler(options).sample(logits, 5);
  EXPECT_EQ(choice.id, 17);
  EXPECT_NEAR(choice.log_probability, std::log(p[17]), 1e-5);
  const std::vector<size_t> best = sorted_by(p, [&](size_t i) { return p[i]; });
  ASSERT_EQ(choice.top.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(choice.top[i].first, static_cast<int64_t>(best[i]));
    EXPECT_NEAR(choice.top[i].second, std::log(p[best[i]]), 1e-5);
  }
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{1, 1, 2}, 10).top.size(), 3u);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{1, 1, 2}, 2).top[1].first, 0);
}

// The logit that the sampler sees, from the odds against token 0, which is never penalised.
double seen_logit(Sampler& sampler, const std::vector<float>& logits, int64_t id) {
  const auto distribution = sampler.distribution(logits);
  return logits[0] + std::log(distribution[id].second / distribution[0].second);
}

TEST(Sampler, RwkvPenaltyByHand) {
  SamplerOptions options;
  options.presence = 0.2;
  options.frequency = 0.4;
  options.penalty_decay = 0.5;
  options.penalty_free_ids = {4, 3};
  Sampler sampler(options);
  const std::vector<float> logits = {0, 1, 2, 3, 4};
  for (const int64_t id : {1, 2, 1, 3}) sampler.accept(id);
  // 1: 1 -> 0.5 -> 0.25 + 1 -> 0.625.  2: 1 -> 0.5 -> 0.25.  3 is free: presence only.
  EXPECT_NEAR(seen_logit(sampler, logits, 1), 1 - (0.2 + 0.625 * 0.4), 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 2), 2 - (0.2 + 0.25 * 0.4), 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 3), 3 - 0.2, 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 4), 4, 1e-6);
}

TEST(Sampler, DecayedPenaltyByHand) {
  SamplerOptions options;
  options.penalty_mode = PenaltyMode::kDecayed;
  options.presence = 0.8;
  options.frequency = 0.4;
  options.penalty_decay = 0.5;
  options.penalty_free_ids = {3};
  Sampler sampler(options);
  const std::vector<float> logits = {0, 1, 2, 3, 4};
  for (const int64_t id : {1, 2, 1, 3, 3}) sampler.accept(id);
  // 1: 0.8 -> 0.4 -> 0.2 + 0.4 -> 0.3 -> 0.15.  2: 0.8 halved three times.  3: 0.8 -> 0.4, no
  // frequency.
  EXPECT_NEAR(seen_logit(sampler, logits, 1), 1 - 0.15, 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 2), 2 - 0.1, 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 3), 3 - 0.4, 1e-6);
}

TEST(Sampler, OpenaiPenaltyByHand) {
  SamplerOptions options;
  options.penalty_mode = PenaltyMode::kOpenai;
  options.presence = 0.8;
  options.frequency = 0.4;
  options.penalty_decay = 0.5;
  Sampler sampler(options);
  const std::vector<float> logits = {0, 1, 2, 3, 4};
  for (const int64_t id : {1, 2, 1, 1}) sampler.accept(id);
  EXPECT_NEAR(seen_logit(sampler, logits, 1), 1 - (0.8 + 3 * 0.4), 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 2), 2 - (0.8 + 0.4), 1e-6);
  EXPECT_NEAR(seen_logit(sampler, logits, 3), 3, 1e-6);
}

TEST(Sampler, BiasAndBans) {
  SamplerOptions options;
  options.logit_bias = {{1, 1.5f}, {1, 0.5f}, {2, -4.0f}};
  options.banned = {3};
  Sampler sampler(options);
  const auto distribution = sampler.distribution(std::vector<float>{0, 0, 0, 9});
  ASSERT_EQ(distribution.size(), 3u);
  EXPECT_NEAR(std::log(distribution[1].second / distribution[0].second), 2, 1e-6);
  EXPECT_NEAR(std::log(distribution[2].second / distribution[0].second), -4, 1e-6);
}

TEST(Sampler, RefusesWhatCannotBeSampled) {
  Sampler sampler({});
  EXPECT_THROW(sampler.sample({}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{1, std::nanf(""), 2}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{1, kInfinity}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{-kInfinity, -kInfinity}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{1, 2}, -1), Error);
  EXPECT_THROW(sampler.accept(-1), Error);
  EXPECT_EQ(sampler.state().random_position, 0u);

  SamplerOptions options;
  options.banned = {0, 1};
  EXPECT_THROW(Sampler(options).sample(std::vector<float>{1, 2}), Error);
  EXPECT_THROW(Sampler(options).sample(std::vector<float>{1}), Error) << "id 1 is outside";
  try {
    sampler.sample(std::vector<float>{1, std::nanf(""), 2});
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("token 1 is nan"), std::string::npos) << error.what();
  }
  EXPECT_THROW(sampler.restore({0, {{-1, 1.0}}}), Error);
  EXPECT_THROW(sampler.restore({0, {{1, std::nan("")}}}), Error);
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const std::vector<std::function<void(SamplerOptions&)>> mistakes = {
      [](SamplerOptions& o) { o.temperature = -1; },
      [](SamplerOptions& o) { o.temperature = std::nan(""); },
      [](SamplerOptions& o) { o.temperature = kInfinity; },
      [](SamplerOptions& o) { o.top_p = 1.01; },
      [](SamplerOptions& o) { o.top_p = -0.1; },
      [](SamplerOptions& o) { o.typical_p = 0; },
      [](SamplerOptions& o) { o.min_p = 2; },
      [](SamplerOptions& o) { o.top_k = -1; },
      [](SamplerOptions& o) { o.presence = kInfinity; },
      [](SamplerOptions& o) { o.frequency = std::nan(""); },
      [](SamplerOptions& o) { o.penalty_decay = 1.5; },
      [](SamplerOptions& o) { o.penalty_free_ids = {-1}; },
      [](SamplerOptions& o) { o.banned = {-1}; },
      [](SamplerOptions& o) {
        o.logit_bias = {{-1, 0.0f}};
      },
      [](SamplerOptions& o) {
        o.logit_bias = {{1, std::nanf("")}};
      },
      [](SamplerOptions& o) {
        o.logit_bias = {{1, 1e30f}};
      },
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    SamplerOptions options;
    mistakes[i](options);
    EXPECT_THROW(Sampler{options}, Error) << i;
  }
}

TEST(Sampler, NamesGoBothWays) {
  for (const auto mode : {PenaltyMode::kRwkv, PenaltyMode::kDecayed, PenaltyMode::kOpenai}) {
    EXPECT_EQ(parse_penalty_mode(name_of(mode)), mode);
  }
  for (const auto order : {TemperatureOrder::kLast, TemperatureOrder::kFirst}) {
    EXPECT_EQ(parse_temperature_order(name_of(order)), order);
  }
  EXPECT_THROW(parse_penalty_mode("RWKV"), Error);
  EXPECT_THROW(parse_temperature_order(""), Error);
}

TEST(BestTokens, InOrderWithTheSmallestIdFirst) {
  const float logits[] = {1, 3, std::nanf(""), 3, -INFINITY, 2};
  EXPECT_EQ(best_tokens(logits, 0), std::vector<int64_t>{});
  EXPECT_EQ(best_tokens(logits, 1), (std::vector<int64_t>{1}));
  EXPECT_EQ(best_tokens(logits, 4), (std::vector<int64_t>{1, 3, 5, 0}));
  EXPECT_EQ(best_tokens(logits, 9), (std::vector<int64_t>{1, 3, 5, 0, 2, 4}));
}

}  // namespace
}  // namespace rookery
