// Which options of the sampler hold where nobody chose, and their names.
#include "generation/sampling.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tokenizers/bytes.h"
#include "tokenizers/files_for_tests.h"
#include "tokenizers/load.h"

namespace rookery {
namespace {

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

const ModelConfig kConfig = make_config("4", 1, 8, 300);

TEST(Sampling, DefaultsOfTheTask) {
  const SamplerOptions text = sampler_options({}, kTextSampling, kConfig, nullptr);
  EXPECT_EQ(text.top_p, 0.85);
  EXPECT_EQ(text.top_k, 0);
  EXPECT_EQ(text.presence, 0.2);
  EXPECT_EQ(text.frequency, 0.2);
  EXPECT_EQ(text.temperature, 1);
  ModelConfig config = kConfig;
  EXPECT_EQ(chat_sampling(config).presence, 0.5);
  config.generation = "7";
  EXPECT_EQ(chat_sampling(config).presence, 0);
  EXPECT_EQ(chat_sampling(config).top_k, 100);
}

TEST(Sampling, ChoicesGoBeforeDefaults) {
  const SamplingChoices choices{
      .top_p = 0.5, .presence = 0.0, .frequency = 1.0, .top_k = 7, .seed = 9, .greedy = true};
  const SamplerOptions options = sampler_options(choices, kTextSampling, kConfig, nullptr);
  EXPECT_EQ(options.top_p, 0.5);
  EXPECT_EQ(options.presence, 0);
  EXPECT_EQ(options.frequency, 1);
  EXPECT_EQ(options.top_k, 7);
  EXPECT_EQ(options.seed, 9u);
  EXPECT_EQ(options.temperature, 0);
}

TEST(Sampling, BytesAreNotPenalised) {
  const ByteTokenizer bytes;
  const ModelConfig config = make_config("4", 1, 8, 256);
  const SamplerOptions options = sampler_options({}, kTextSampling, config, &bytes);
  EXPECT_EQ(options.presence, 0);
  EXPECT_EQ(options.frequency, 0);
  EXPECT_EQ(sampler_options({.presence = 0.3}, kTextSampling, config, &bytes).presence, 0.3);
  // Space, tab and digits may come again and again.
  EXPECT_EQ(options.penalty_free_ids,
            (std::vector<int64_t>{' ', '\t', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'}));
}

// A model's vocabulary is rounded up for the sake of products: nothing stands for these ids,
// whether the tokenizer was told of them or not.
TEST(Sampling, PaddingIdsAreNeverChosen) {
  const auto padded = with_padding_ids(std::make_unique<ByteTokenizer>(), 260);
  ASSERT_EQ(padded->vocab_size(), 260);
  const ByteTokenizer bytes;
  const ModelConfig config = make_config("4", 1, 8, 260);
  SamplingChoices choices;
  choices.options.banned = {5};
  for (const Tokenizer* tokenizer : std::initializer_list<const Tokenizer*>{padded.get(), &bytes}) {
    const SamplerOptions options = sampler_options(choices, kTextSampling, config, tokenizer);
    EXPECT_EQ(options.banned, (std::vector<int64_t>{5, 256, 257, 258, 259}));
    std::vector<float> logits(260, 0);
    for (size_t id = 256; id < 260; ++id) logits[id] = 50;
    Sampler sampler(options);
    for (int i = 0; i < 50; ++i) EXPECT_LT(sampler.sample(logits).id, 256);
  }
  EXPECT_TRUE(sampler_options({}, kTextSampling, config, nullptr).banned.empty());
}

TEST(Sampling, SeedsThatNobodyChoseDiffer) {
  const auto seed = [] { return sampler_options({}, kTextSampling, kConfig, nullptr).seed; };
  // Equal by chance once in 2^32 runs, three in a row never.
  EXPECT_FALSE(seed() == seed() && seed() == seed() && seed() == seed());
  EXPECT_LE(seed(), UINT32_MAX);
}

TEST(Sampling, RefusesTokensThatTheModelDoesNotHave) {
  SamplingChoices choices;
  choices.options.banned = {300};
  const auto refused = [&] {
    return error_of([&] { sampler_options(choices, kTextSampling, kConfig, nullptr); });
  };
  EXPECT_EQ(refused(),
            "banned tokens: token 300 is not in the vocabulary: this model has tokens 0 to 299");
  choices.options.banned = {299};
  EXPECT_EQ(refused(), "no error");
  choices.options.logit_bias = {{300, 1.0f}};
  EXPECT_NE(refused().find("logit bias: token 300"), std::string::npos);
}

TEST(Sampling, ChoicesOutOfRangeAreRefusedBeforeAModelIsKnown) {
  EXPECT_NO_THROW(validate(SamplingChoices{}));
  EXPECT_THROW(validate(SamplingChoices{.top_p = 2}), Error);
  EXPECT_THROW(validate(SamplingChoices{.presence = 1e7}), Error);
  EXPECT_THROW(validate(SamplingChoices{.frequency = 1e7}), Error);
  EXPECT_THROW(validate(SamplingChoices{.top_k = -1}), Error);
}

TEST(Sampling, OptionsHaveNames) {
  SamplerOptions options;
  const std::string before = to_string(options);
  for (const auto& [name, value] : {std::pair{"temperature", "0.5"},
                                    {"top_p", "0.25"},
                                    {"top-k", "3"},
                                    {"min-p", "0.125"},
                                    {"typical", "0.75"},
                                    {"presence", "-1"},
                                    {"frequency", "2"},
                                    {"penalty_decay", "0.5"},
                                    {"penalty-mode", "openai"},
                                    {"temperature-order", "first"},
                                    {"seed", "18446744073709551615"}}) {
    set_option(options, name, value);
  }
  EXPECT_EQ(
      to_string(options),
      "temperature=0.5 top-p=0.25 top-k=3 min-p=0.125 typical=0.75 presence=-1 frequency=2 "
      "penalty-decay=0.5 penalty-mode=openai temperature-order=first seed=18446744073709551615");
  EXPECT_NE(to_string(options), before);
}

TEST(Sampling, AnOptionThatIsRefusedChangesNothing) {
  SamplerOptions options;
  const std::string before = to_string(options);
  for (const auto& [name, value] : {std::pair{"top-p", "2"},
                                    {"top-p", ""},
                                    {"top-p", "0.5x"},
                                    {"top-k", "1.5"},
                                    {"seed", "-1"},
                                    {"penalty-mode", "none"},
                                    {"sing", "1"},
                                    {"", "1"}}) {
    EXPECT_THROW(set_option(options, name, value), Error) << name << "=" << value;
  }
  EXPECT_EQ(to_string(options), before);
  EXPECT_NE(error_of([&] {
              set_option(options, "top-k", "1.5");
            }).find("top-k: invalid value '1.5': expected a whole number"),
            std::string::npos);
}

}  // namespace
}  // namespace rookery
