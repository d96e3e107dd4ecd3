// What ends a text, what is shown when, and what has been read by then.
#include "generation/generator.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "models/model.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

// Logits from which a greedy sampler chooses this id.
std::vector<float> choosing(int32_t id) {
  std::vector<float> logits(256, 0.0f);
  logits[id] = 100;
  return logits;
}

class GeneratorTest : public ::testing::Test {
 protected:
  // Says these bytes, one token each, and then token 0. Returns the pieces of text, "|" between.
  std::string say(std::string_view text, GenerationOptions options) {
    Generator generator(sampler_, &tokenizer_, std::move(options));
    std::string shown;
    for (const char byte : std::string(text) + '\0') {
      const Piece* piece = generator.next(choosing(static_cast<uint8_t>(byte)));
      if (piece == nullptr) break;
      EXPECT_EQ(piece->bytes, std::string(1, byte));
      shown += piece->text + "|";
      certain_ = piece->certain_bytes;
    }
    EXPECT_TRUE(generator.ended());
    EXPECT_EQ(generator.next(choosing('x')), nullptr) << "it has ended";
    reason_ = generator.reason();
    tokens_ = generator.tokens();
    return shown + generator.finish();
  }

  ByteTokenizer tokenizer_;
  Sampler sampler_{SamplerOptions{.temperature = 0}};
  EndReason reason_ = EndReason::kInterrupted;
  int64_t tokens_ = 0, certain_ = 0;
};

TEST_F(GeneratorTest, TokenZeroEnds) {
  EXPECT_EQ(say("abc", {}), "a|b|c|");
  EXPECT_EQ(reason_, EndReason::kEnd);
  EXPECT_EQ(tokens_, 3);
  EXPECT_EQ(say("", {}), "");
  EXPECT_EQ(reason_, EndReason::kEnd);
}

TEST_F(GeneratorTest, TheLimitEnds) {
  EXPECT_EQ(say("abc", {.most_tokens = 2}), "a|b|");
  EXPECT_EQ(reason_, EndReason::kLength);
  EXPECT_EQ(tokens_, 2);
  EXPECT_EQ(say("abc", {.most_tokens = 0}), "");
  EXPECT_EQ(reason_, EndReason::kLength);
}

TEST_F(GeneratorTest, AStopTextEndsAndIsNotShown) {
  EXPECT_EQ(say("a\n\nb", {.stops = {"\n\n"}}), "a|||");
  EXPECT_EQ(reason_, EndReason::kStop);
  EXPECT_EQ(tokens_, 3);
  EXPECT_EQ(certain_, 1);
  // At the last token that is allowed, too, it is the reason.
  EXPECT_EQ(say("a\n\nb", {.most_tokens = 3, .stops = {"\n\n"}}), "a|||");
  EXPECT_EQ(reason_, EndReason::kStop);
}

TEST_F(GeneratorTest, WhatMayBeginAStopIsHeldBackUntilItIsKnown) {
  EXPECT_EQ(say("a\nb", {.stops = {"\n\n"}}), "a||\nb|");
  EXPECT_EQ(certain_, 3);
  // At the end it was none.
  EXPECT_EQ(say("a\n", {.stops = {"\n\n"}}), "a||\n");
  EXPECT_EQ(certain_, 1);
  EXPECT_EQ(reason_, EndReason::kEnd);
}

TEST_F(GeneratorTest, TextIsWholeCharacters) {
  EXPECT_EQ(say("\xc3\xa9!", {}), "|\xc3\xa9|!|");
  EXPECT_EQ(say("\xc3", {}), "|\xef\xbf\xbd");
  EXPECT_EQ(say("\xc3\xa9", {.stops = {"\xa9"}}), "||\xef\xbf\xbd") << "a stop inside a character";
}

TEST_F(GeneratorTest, ACharacterMayBeginInThePrompt) {
  Generator generator(sampler_, &tokenizer_, {});
  EXPECT_EQ(generator.echo(std::vector<int32_t>{'a', 0xc3}), "a");
  EXPECT_EQ(generator.next(choosing(0xa9))->text, "\xc3\xa9");
}

TEST_F(GeneratorTest, TellsTheMostProbableTokens) {
  Generator generator(sampler_, &tokenizer_, {.top_log_probabilities = 2});
  const Piece* piece = generator.next(choosing('a'));
  ASSERT_NE(piece, nullptr);
  ASSERT_EQ(piece->choice.top.size(), 2u);
  EXPECT_EQ(piece->choice.top[0].first, 'a');
}

TEST_F(GeneratorTest, WithoutATokenizerThereAreOnlyIds) {
  EXPECT_THROW(Generator(sampler_, nullptr, {.stops = {"x"}}), Error);
  Generator generator(sampler_, nullptr, {.most_tokens = 1});
  const Piece* piece = generator.next(choosing('a'));
  ASSERT_NE(piece, nullptr);
  EXPECT_EQ(piece->choice.id, 'a');
  EXPECT_EQ(piece->text, "");
  EXPECT_TRUE(generator.ended());
  EXPECT_EQ(generator.finish(), "");
}

TEST_F(GeneratorTest, TheFirstReasonCounts) {
  Generator generator(sampler_, &tokenizer_, {.most_tokens = 1});
  generator.next(choosing('a'));
  generator.interrupt();
  EXPECT_EQ(generator.reason(), EndReason::kLength);
}

TEST_F(GeneratorTest, AcceptsWhatItChose) {
  Sampler sampler(SamplerOptions{.temperature = 0, .presence = 70});
  Generator generator(sampler, &tokenizer_, {});
  std::vector<float> logits = choosing('a');
  logits['b'] = 50;
  EXPECT_EQ(generator.next(logits)->choice.id, 'a');
  EXPECT_EQ(generator.next(logits)->choice.id, 'b') << "the penalty of 'a'";
}

// The loop, with a model.
class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest() {
    for (int i = 0; i < 1100; ++i) prompt_.push_back(1 + i * i % 255);
  }
  Generator make(int64_t most = 10) {
    return Generator(sampler_, &tokenizer_, {.most_tokens = most});
  }

  ThreadPool pool_{2};
  ByteTokenizer tokenizer_;
  Model model_ = Model::initialised(make_config("4", 2, 16, 256), {.scheme = "random"}, pool_);
  Sampler sampler_{SamplerOptions{.banned = {0}, .seed = 1}};
  Session session_{model_, pool_};
  std::vector<int32_t> prompt_;
};

TEST_F(GenerateTest, ReadsAllButTheLastToken) {
  Generator generator = make();
  std::vector<int32_t> ids = prompt_;
  const Generated generated =
      generate(session_, generator, prompt_, {.piece = [&](const Piece& piece) {
                 EXPECT_EQ(session_.position(), static_cast<int64_t>(ids.size()));
                 ids.push_back(static_cast<int32_t>(piece.choice.id));
               }});
  EXPECT_EQ(generated.reason, EndReason::kLength);
  EXPECT_EQ(generated.tokens, 10);
  ASSERT_EQ(ids.size(), prompt_.size() + 10);
  EXPECT_EQ(session_.position(), 1109);
  EXPECT_EQ(generated.unread, ids.back());
  // The logits after what was read.
  Session other(model_, pool_);
  const auto expected = other.feed(std::span(ids).first(1109));
  for (int i = 0; i < 256; ++i) EXPECT_NEAR(generated.logits[i], expected[i], 1e-5);
}

TEST_F(GenerateTest, TellsHowMuchOfThePromptIsRead) {
  Generator generator = make();
  std::vector<std::pair<int64_t, int64_t>> told;
  generate(session_, generator, prompt_, {.prompt_progress = [&](int64_t read, int64_t total) {
             told.emplace_back(read, total);
           }});
  EXPECT_EQ(told,
            (std::vector<std::pair<int64_t, int64_t>>{{512, 1100}, {1024, 1100}, {1100, 1100}}));
}

TEST_F(GenerateTest, AsksBeforeEachChunkAndEachToken) {
  // Three chunks, then ten tokens.
  for (int asked_before_stop = 0; asked_before_stop <= 13; ++asked_before_stop) {
    session_.reset();
    Generator generator = make();
    int asked = 0;
    const Generated generated = generate(session_, generator, prompt_,
                                         {.stop = [&] { return asked++ == asked_before_stop; }});
    const bool whole = asked_before_stop == 13;
    EXPECT_EQ(generated.reason, whole ? EndReason::kLength : EndReason::kInterrupted);
    EXPECT_EQ(generated.prompt_read, asked_before_stop >= 3);
    EXPECT_EQ(generated.tokens, std::max(0, asked_before_stop - 3));
    EXPECT_EQ(generated.logits.empty(), asked_before_stop < 3);
    const int64_t read[] = {0, 512, 1024, 1100};
    EXPECT_EQ(session_.position(),
              asked_before_stop <= 3 ? read[asked_before_stop] : 1100 + asked_before_stop - 4);
  }
}

TEST_F(GenerateTest, GoesOnFromLogitsWithoutAPrompt) {
  const auto logits = session_.feed(prompt_);
  const std::vector<float> kept(logits.begin(), logits.end());
  const auto say = [&](std::span<const int32_t> prompt, std::span<const float> given) {
    sampler_.restore({});
    Generator generator = make();
    std::string text;
    generate(session_, generator, prompt,
             {.piece = [&](const Piece& piece) { text += piece.bytes; }}, given);
    return text;
  };
  const std::string text = say({}, kept);
  EXPECT_EQ(text.size(), 10u);
  session_.reset();
  EXPECT_EQ(say(prompt_, {}), text);
}

TEST(EndReasons, HaveNames) {
  EXPECT_EQ(name_of(EndReason::kStop), "stop");
  EXPECT_EQ(name_of(EndReason::kEnd), "end");
  EXPECT_EQ(name_of(EndReason::kLength), "length");
  EXPECT_EQ(name_of(EndReason::kInterrupted), "interrupted");
}

}  // namespace
}  // namespace rookery
