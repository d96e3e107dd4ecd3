// What becomes of the sampler's flags.
#include "cli/sampling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tokenizers/bytes.h"
#include "tokenizers/load.h"

namespace rookery::cli {
namespace {

Model model_of(int64_t vocabulary) { return Model::planned(make_config("4", 1, 8, vocabulary)); }

// A model's vocabulary is rounded up for the sake of products: nothing stands for these ids.
TEST(Sampling, PaddingIdsAreNeverChosen) {
  const auto tokenizer = with_padding_ids(std::make_unique<ByteTokenizer>(), 260);
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  SamplingFlags flags;
  flags.options.banned = {7};
  const SamplerOptions options = sampler_options(flags, {}, model_of(260), tokenizer.get());
  EXPECT_EQ(options.banned, (std::vector<int64_t>{7, 256, 257, 258, 259}));
  EXPECT_TRUE(sampler_options({}, {}, model_of(256), tokenizer.get()).banned.empty());
  EXPECT_TRUE(sampler_options({}, {}, model_of(260), nullptr).banned.empty());
  std::vector<float> logits(260, 0);
  for (size_t id = 256; id < 260; ++id) logits[id] = 50;
  Sampler sampler(options);
  for (int i = 0; i < 50; ++i) EXPECT_LT(sampler.sample(logits).id, 256);
}

TEST(Sampling, FlagsComeBeforeDefaults) {
  const SamplingDefaults defaults = {.top_p = 0.85, .top_k = 3, .presence = 0.2, .frequency = 0.1};
  SamplingFlags flags;
  flags.options.min_p = 0.5;
  const SamplerOptions by_default = sampler_options(flags, defaults, model_of(260), nullptr);
  EXPECT_EQ(by_default.top_p, 0.85);
  EXPECT_EQ(by_default.top_k, 3);
  EXPECT_EQ(by_default.presence, 0.2);
  EXPECT_EQ(by_default.frequency, 0.1);
  EXPECT_EQ(by_default.min_p, 0.5);
  EXPECT_EQ(by_default.temperature, 1);
  // Bytes are too few to be spared, unless the user says so.
  const ByteTokenizer bytes;
  const SamplerOptions of_bytes = sampler_options(flags, defaults, model_of(256), &bytes);
  EXPECT_EQ(of_bytes.presence, 0);
  EXPECT_EQ(of_bytes.frequency, 0);
  EXPECT_EQ(of_bytes.top_p, 0.85);
  // Space, tab and digits: bytes are their own ids.
  EXPECT_EQ(of_bytes.penalty_free_ids,
            (std::vector<int64_t>{' ', '\t', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'}));
  flags.top_p = 0.5;
  flags.top_k = 0;
  flags.presence = 0.3;
  flags.frequency = 0.4;
  flags.seed = 99;
  flags.greedy = true;
  const SamplerOptions by_flag = sampler_options(flags, defaults, model_of(256), &bytes);
  EXPECT_EQ(by_flag.top_p, 0.5);
  EXPECT_EQ(by_flag.top_k, 0);
  EXPECT_EQ(by_flag.presence, 0.3);
  EXPECT_EQ(by_flag.frequency, 0.4);
  EXPECT_EQ(by_flag.seed, 99u);
  EXPECT_EQ(by_flag.temperature, 0);
}

TEST(Sampling, EveryOptionHasAName) {
  SamplerOptions options;
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"temperature", "0.25"},
                                                        {"top-p", "0.5"},
                                                        {"top_k", "7"},
                                                        {"min-p", "0.125"},
                                                        {"typical", "0.75"},
                                                        {"presence", "0.3"},
                                                        {"frequency", "0.4"},
                                                        {"penalty_decay", "0.9"},
                                                        {"penalty-mode", "decayed"},
                                                        {"temperature-order", "first"},
                                                        {"seed", "8"}}) {
    set_option(options, name, value);
  }
  EXPECT_EQ(options.temperature, 0.25);
  EXPECT_EQ(options.top_p, 0.5);
  EXPECT_EQ(options.top_k, 7);
  EXPECT_EQ(options.min_p, 0.125);
  EXPECT_EQ(options.typical_p, 0.75);
  EXPECT_EQ(options.presence, 0.3);
  EXPECT_EQ(options.frequency, 0.4);
  EXPECT_EQ(options.penalty_decay, 0.9);
  EXPECT_EQ(options.penalty_mode, PenaltyMode::kDecayed);
  EXPECT_EQ(options.temperature_order, TemperatureOrder::kFirst);
  EXPECT_EQ(options.seed, 8u);
  EXPECT_EQ(describe(options),
            "temperature=0.25 top-p=0.5 top-k=7 min-p=0.125 typical=0.75 presence=0.3 "
            "frequency=0.4 penalty-decay=0.9 penalty-mode=decayed temperature-order=first seed=8");
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"warmth", "1"}, {"top-p", "1.5"}, {"top-p", "x"}, {"top-k", "1.5"}, {"seed", ""}}) {
    EXPECT_THROW(set_option(options, name, value), Error) << name;
  }
  EXPECT_EQ(options.top_p, 0.5);
}

TEST(Sampling, Unescapes) {
  EXPECT_EQ(unescape(R"(a\nb\tc\rd\\n)"), "a\nb\tc\rd\\n");
  EXPECT_THROW(unescape("\\x"), Error);
  EXPECT_THROW(unescape("a\\"), Error);
  EXPECT_THROW(unescape(""), Error);
}

}  // namespace
}  // namespace rookery::cli
