#include "evaluation/scorer.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "evaluation/log_softmax.h"
#include "evaluation/model_for_tests.h"

namespace rookery {
namespace {

std::vector<int32_t> some_tokens(int64_t count, int64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(1 + (i * i + 7 * i + 13 * seed) % 30));
  }
  return tokens;
}

class ScorerTest : public ::testing::Test {
 protected:
  std::vector<std::vector<Score>> score(std::span<const Question> questions,
                                        const ScorerOptions& options = {}) {
    Scorer scorer(model_, pool_, options);
    return scorer.score(questions);
  }
  // By the definition: everything is read from the start, for each continuation alone.
  Score expected(const std::vector<int32_t>& context, const std::vector<int32_t>& continuation,
                 bool start_token = true) {
    std::vector<int32_t> all;
    if (start_token) all.push_back(0);
    all.insert(all.end(), context.begin(), context.end());
    const size_t before = all.size();
    all.insert(all.end(), continuation.begin(), continuation.end());
    std::vector<bool> greedy;
    const std::vector<double> values = log_probabilities(model_, pool_, all, &greedy);
    Score score;
    for (size_t i = before - 1; i < values.size(); ++i) {
      score.log_probability += values[i];
      score.greedy = score.greedy && greedy[i];
      ++score.tokens;
    }
    return score;
  }

  ThreadPool pool_{2};
  Model model_ = random_model(pool_);
  // Short and long, empty, with choices of one token and of many.
  std::vector<Question> questions_ = {
      {some_tokens(5, 1), {some_tokens(1, 2), some_tokens(9, 3), some_tokens(2, 4)}},
      {{}, {some_tokens(3, 5), some_tokens(1, 6)}},
      {some_tokens(300, 7), {some_tokens(120, 8), some_tokens(40, 9)}},
      {some_tokens(1, 10), {some_tokens(1, 11)}},
      {some_tokens(33, 12), {some_tokens(33, 13), some_tokens(33, 14), some_tokens(33, 13)}},
  };
};

TEST_F(ScorerTest, IsTheSumOfTheDefinition) {
  // One forward for all; forwards that cut every sequence; one token at a time.
  for (const int64_t batch : {4096, 64, 7, 1}) {
    const auto scores = score(questions_, {.reading = {.batch_tokens = batch}});
    ASSERT_EQ(scores.size(), questions_.size());
    for (size_t q = 0; q < scores.size(); ++q) {
      ASSERT_EQ(scores[q].size(), questions_[q].continuations.size());
      for (size_t c = 0; c < scores[q].size(); ++c) {
        const Score right = expected(questions_[q].context, questions_[q].continuations[c]);
        EXPECT_NEAR(scores[q][c].log_probability, right.log_probability,
                    2e-5 * static_cast<double>(right.tokens))
            << batch << ' ' << q << ' ' << c;
        EXPECT_EQ(scores[q][c].tokens, right.tokens);
        EXPECT_EQ(scores[q][c].greedy, right.greedy);
      }
    }
  }
}

TEST_F(ScorerTest, GreedyContinuationsAreRecognised) {
  // What greedy decoding says after a context, and the same with its last token changed.
  Session session(model_, pool_, true);
  std::vector<int32_t> context = some_tokens(20, 1), said, all = {0};
  all.insert(all.end(), context.begin(), context.end());
  auto logits = session.feed(all);
  for (int i = 0; i < 6; ++i) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    said.push_back(static_cast<int32_t>(best));
    logits = session.feed(said.back());
  }
  std::vector<int32_t> changed = said;
  changed.back() = (changed.back() + 1) % 31;
  const Question question{context, {said, changed, {said[0]}, {(said[0] + 1) % 31}}};
  const auto scores = score(std::span(&question, 1));
  EXPECT_TRUE(scores[0][0].greedy);
  EXPECT_FALSE(scores[0][1].greedy);
  EXPECT_TRUE(scores[0][2].greedy);
  EXPECT_FALSE(scores[0][3].greedy);
}

// Greedy decoding goes on as the continuation does, but would not have begun it: one wrong token is
// enough, wherever it stands.
TEST_F(ScorerTest, AContinuationIsGreedyIfEveryTokenIs) {
  const std::vector<int32_t> context = some_tokens(20, 1);
  for (size_t wrong = 0; wrong < 4; ++wrong) {
    Session session(model_, pool_, true);
    std::vector<int32_t> all = {0}, said;
    all.insert(all.end(), context.begin(), context.end());
    auto logits = session.feed(all);
    for (size_t i = 0; i < 4; ++i) {
      auto best =
          static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      if (i == wrong) best = (best + 1) % 31;
      said.push_back(best);
      logits = session.feed(best);
    }
    const Question question{context, {said}};
    const Score score = this->score(std::span(&question, 1))[0][0];
    EXPECT_FALSE(score.greedy) << wrong;
    EXPECT_EQ(score.tokens, 4);
  }
}

TEST_F(ScorerTest, PackedIsAlone) {
  const auto together = score(questions_);
  ScorerOptions exact{.reading = {.deterministic = true}}, cut = exact;
  cut.reading.batch_tokens = 50;
  const auto exactly = score(questions_, exact), in_pieces = score(questions_, cut);
  for (size_t q = 0; q < questions_.size(); ++q) {
    const auto alone = score(std::span(&questions_[q], 1));
    const auto exactly_alone = score(std::span(&questions_[q], 1), exact);
    for (size_t c = 0; c < alone[0].size(); ++c) {
      EXPECT_NEAR(together[q][c].log_probability, alone[0][c].log_probability,
                  2e-5 * static_cast<double>(alone[0][c].tokens));
      // The same bits, whatever else is in the batch and wherever it was cut.
      EXPECT_EQ(exactly[q][c].log_probability, exactly_alone[0][c].log_probability);
      EXPECT_EQ(exactly[q][c].log_probability, in_pieces[q][c].log_probability);
    }
  }
}

TEST_F(ScorerTest, RepeatsBitForBitAndCountsTokens) {
  Scorer scorer(model_, pool_, {});
  const auto first = scorer.score(questions_);
  // Each context once, and each continuation but for its last token.
  int64_t tokens = 0;
  for (const Question& question : questions_) {
    tokens += 1 + static_cast<int64_t>(question.context.size());
    for (const auto& c : question.continuations) tokens += static_cast<int64_t>(c.size()) - 1;
  }
  EXPECT_EQ(scorer.tokens_read(), tokens);
  const auto second = scorer.score(questions_);
  for (size_t q = 0; q < first.size(); ++q) {
    for (size_t c = 0; c < first[q].size(); ++c) {
      EXPECT_EQ(first[q][c].log_probability, second[q][c].log_probability);
    }
  }
}

TEST_F(ScorerTest, MoreQuestionsThanSlots) {
  std::vector<Question> many;
  Scorer scorer(model_, pool_, {});
  for (int64_t i = 0; i < scorer.slots() + 3; ++i) {
    many.push_back({some_tokens(3, i), {some_tokens(2, i + 1)}});
  }
  const auto scores = scorer.score(many);
  for (const size_t q : {size_t{0}, many.size() - 4, many.size() - 1}) {
    EXPECT_NEAR(scores[q][0].log_probability,
                expected(many[q].context, many[q].continuations[0]).log_probability, 5e-5);
  }
}

TEST_F(ScorerTest, WithoutStartToken) {
  const ScorerOptions bare{.start_token = false};
  const Question question{some_tokens(4, 1), {some_tokens(3, 2)}};
  EXPECT_NEAR(score(std::span(&question, 1), bare)[0][0].log_probability,
              expected(question.context, question.continuations[0], false).log_probability, 5e-5);
  const Question empty{{}, {some_tokens(3, 2)}};
  EXPECT_THROW(score(std::span(&empty, 1), bare), Error);
}

TEST_F(ScorerTest, RefusesWhatCannotBeScored) {
  for (const Question& wrong : {Question{{31}, {{1}}}, Question{{-1}, {{1}}}, Question{{1}, {{31}}},
                                Question{{1}, {{1, -5}}}, Question{{1}, {{}}}}) {
    EXPECT_THROW(score(std::span(&wrong, 1)), Error);
  }
  EXPECT_THROW(Scorer(model_, pool_, {.reading = {.batch_tokens = 0}}), Error);
  EXPECT_TRUE(score({}).empty());
  const Question nothing_to_choose{some_tokens(4, 1), {}};
  EXPECT_TRUE(score(std::span(&nothing_to_choose, 1))[0].empty());
  // A model whose training diverged.
  float* head = model_.parameter("head.weight").value.as<float>();
  head[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(score(questions_), Error);
}

TEST(LogSoftmax, AgreesWithTheDefinition) {
  for (const int64_t count : {1, 2, 7, 16, 17, 255, 256, 300, 5000}) {
    std::vector<float> z(count);
    for (int64_t i = 0; i < count; ++i) {
      z[i] = static_cast<float>(30 * std::sin(static_cast<double>(i * i)) - 50);
    }
    double sum = 0;
    for (const float x : z) sum += std::exp(static_cast<double>(x));
    const LogSoftmax row = log_softmax(z);
    const auto largest = std::max_element(z.begin(), z.end());
    EXPECT_EQ(row.largest, *largest);
    for (const int64_t i : {int64_t{0}, count / 2, count - 1}) {
      EXPECT_NEAR(row.of(z[i]), z[i] - std::log(sum), 1e-6) << count;
      EXPECT_EQ(is_greedy(z, row, i), z.begin() + i == largest);
    }
  }
}

TEST(LogSoftmax, EqualAndWrongLogits) {
  std::vector<float> z(777, -3.5f);
  const LogSoftmax row = log_softmax(z);
  EXPECT_EQ(row.of(z[5]), -std::log(777.0));  // exactly
  EXPECT_TRUE(is_greedy(z, row, 0));
  EXPECT_FALSE(is_greedy(z, row, 1));  // of equal logits greedy decoding takes the first
  for (const float wrong : {NAN, INFINITY}) {
    z[600] = wrong;
    EXPECT_FALSE(std::isfinite(log_softmax(z).of(z[5])));
  }
  EXPECT_FALSE(std::isfinite(log_softmax(std::vector<float>(5, -INFINITY)).of(-INFINITY)));
}

}  // namespace
}  // namespace rookery
