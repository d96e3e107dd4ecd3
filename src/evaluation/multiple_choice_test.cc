#include "evaluation/multiple_choice.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checking/files_for_tests.h"
#include "evaluation/last_word.h"
#include "evaluation/model_for_tests.h"

namespace rookery {
namespace {

// An item whose scores are given.
ItemScores made(std::vector<std::string> choices, std::vector<double> log_probabilities,
                int64_t gold) {
  ItemScores scores;
  scores.item.contexts = {"context"};
  scores.item.continuations = std::move(choices);
  scores.item.gold = gold;
  for (const double value : log_probabilities) scores.scores.push_back({value, 1, false});
  return scores;
}

TEST(MultipleChoice, KnownOutcomes) {
  MultipleChoice measure;
  // Right by the sum; per byte -2/2 against -3/8: wrong.
  measure.add(made({" ab", " abcdefgh"}, {-2, -3}, 0));
  // Wrong by the sum, right per byte.
  measure.add(made({" ab", " abcdefgh", " c"}, {-2, -3, -9}, 1));
  // Right both ways.
  measure.add(made({"aa", "bb", "cc", "dd"}, {-5, -4, -3, -4}, 2));
  // A tie of the best: the first counts.
  measure.add(made({"aa", "bb", "cc"}, {-5, -4, -4}, 2));
  // A tie below the best is none.
  measure.add(made({"aa", "bb", "cc"}, {-5, -5, -4}, 2));
  EXPECT_EQ(measure.items(), 5);
  EXPECT_EQ(measure.ties(), 1);
  EXPECT_DOUBLE_EQ(measure.accuracy().value, 3.0 / 5);
  EXPECT_DOUBLE_EQ(*measure.accuracy().error, std::sqrt(0.6 * 0.4 / 4));
  EXPECT_DOUBLE_EQ(measure.accuracy_norm()->value, 3.0 / 5);
  EXPECT_DOUBLE_EQ(measure.chance(), (1.0 / 2 + 1.0 / 3 + 1.0 / 4 + 1.0 / 3 + 1.0 / 3) / 5);
}

TEST(MultipleChoice, TheSumAndTheMeanPerByteMayDisagree) {
  const Prediction prediction = predict(made({" ab", " abcdefgh"}, {-2, -3}, 0));
  EXPECT_EQ(prediction.choice, 0);
  EXPECT_EQ(prediction.choice_norm, 1);
  EXPECT_FALSE(prediction.tie);
}

TEST(MultipleChoice, BytesWithoutTheLeadingSpace) {
  EXPECT_EQ(bytes_of_choice(" a b"), 3);
  EXPECT_EQ(bytes_of_choice("a"), 1);
  EXPECT_EQ(bytes_of_choice(" "), 1);
  EXPECT_EQ(bytes_of_choice(" \xc3\xa9"), 2);
}

TEST(MultipleChoice, ContextsHaveNoLength) {
  ItemScores scores = made({" is right"}, {-3, -2}, 1);
  scores.item.contexts = {"it", "he"};
  MultipleChoice measure;
  measure.add(scores);
  EXPECT_EQ(measure.accuracy().value, 1);
  EXPECT_FALSE(measure.accuracy_norm().has_value());
  EXPECT_FALSE(measure.accuracy().error.has_value());
}

TEST(LastWord, KnownOutcomes) {
  LastWord measure;
  for (const auto& [value, tokens, greedy] :
       {std::tuple(-2.0, 1, true), std::tuple(-6.0, 3, false), std::tuple(-1.0, 2, true)}) {
    ItemScores scores;
    scores.scores = {{value, tokens, greedy}};
    measure.add(scores);
  }
  EXPECT_DOUBLE_EQ(measure.accuracy().value, 2.0 / 3);
  EXPECT_DOUBLE_EQ(*measure.accuracy().error, std::sqrt(2.0 / 9 / 2));
  EXPECT_DOUBLE_EQ(measure.perplexity().value, std::exp(3.0));
  EXPECT_NEAR(*measure.perplexity().error, std::exp(3.0) * std::sqrt((1 + 9 + 4) / 2.0 / 3), 1e-9);
  EXPECT_DOUBLE_EQ(measure.token_perplexity().value, std::exp(9.0 / 6));
  const double squares = 0.5 * 0.5 + 1.5 * 1.5 + 2 * 2;  // sum of (x - 1.5 y)^2
  EXPECT_NEAR(*measure.token_perplexity().error, std::exp(1.5) * std::sqrt(3.0 / 2 * squares) / 6,
              1e-12);
}

class ItemFiles : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  WordTokenizer tokenizer_;
  Model model_ = random_model(pool_);
  TemporaryFolder folder_;

  double by_hand(const std::string& context, const std::string& continuation) {
    std::vector<int32_t> ids = {0};
    tokenizer_.encode_to(context, ids);
    const size_t before = ids.size();
    tokenizer_.encode_to(continuation, ids);
    double sum = 0;
    const auto values = log_probabilities(model_, pool_, ids);
    for (size_t i = before - 1; i < values.size(); ++i) sum += values[i];
    return sum;
  }
};

TEST_F(ItemFiles, ScoresAreThoseByHand) {
  const auto path =
      save(folder_, "items.jsonl",
           R"({"id":"a","context":"the king","choices":[" sings"," is the thing"],"gold":1}
{"id":"b","contexts":["the cat","the dog"],"continuation":" is wet","gold":0}
{"id":"c","context":"","choices":["a","b","the","zz"],"gold":3}
)");
  Scorer scorer(model_, pool_, {});
  std::vector<ItemScores> all;
  const ItemRun run{.on_item = [&](const ItemScores& scores) { all.push_back(scores); }};
  EXPECT_EQ(score_items(path, ItemForm::kChoices, tokenizer_, scorer, run), 3);
  ASSERT_EQ(all.size(), 3u);
  const auto expect = [&](size_t item, size_t choice, const char* context, const char* text) {
    EXPECT_NEAR(all[item].scores.at(choice).log_probability, by_hand(context, text), 1e-4);
  };
  expect(0, 0, "the king", " sings");
  expect(0, 1, "the king", " is the thing");
  expect(1, 0, "the cat", " is wet");
  expect(1, 1, "the dog", " is wet");
  expect(2, 0, "", "a");
  expect(2, 3, "", "zz");
  EXPECT_EQ(all[0].continuation_ids[1], tokenizer_.encode(" is the thing"));
  EXPECT_EQ(all[1].context_ids[1], tokenizer_.encode("the dog"));
  EXPECT_EQ(all[0].scores[1].tokens, 9);  // " ", i, s, " ", the, " ", t, h, ing
  // The measure agrees with the scores.
  MultipleChoice measure;
  int64_t right = 0;
  for (const ItemScores& scores : all) {
    measure.add(scores);
    const auto best = std::max_element(
        scores.scores.begin(), scores.scores.end(),
        [](const Score& a, const Score& b) { return a.log_probability < b.log_probability; });
    if (best - scores.scores.begin() == scores.item.gold) ++right;
  }
  EXPECT_DOUBLE_EQ(measure.accuracy().value, static_cast<double>(right) / 3);
}

TEST_F(ItemFiles, LimitAndStop) {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += R"({"context":"a","continuation":" the"})" + std::string("\n");
  const auto path = save(folder_, "items.jsonl", text);
  Scorer scorer(model_, pool_, {.reading = {.batch_tokens = 4}});
  int64_t seen = 0;
  const auto on_item = [&](const ItemScores&) { ++seen; };
  EXPECT_EQ(score_items(path, ItemForm::kContinuation, tokenizer_, scorer,
                        {.limit = 7, .on_item = on_item}),
            7);
  EXPECT_EQ(seen, 7);
  int groups = 2;
  const int64_t done = score_items(path, ItemForm::kContinuation, tokenizer_, scorer,
                                   {.on_item = on_item, .go_on = [&] { return groups-- > 0; }});
  EXPECT_GT(done, 0);
  EXPECT_LT(done, 40);
  EXPECT_EQ(seen, 7 + done);
}

TEST_F(ItemFiles, TextThatTheTokenizerCannotExpress) {
  const auto path = save(folder_, "items.jsonl",
                         R"({"context":"a","continuation":"b"}
{"context":"a","continuation":"B"})");
  Scorer scorer(model_, pool_, {});
  try {
    score_items(path, ItemForm::kContinuation, tokenizer_, scorer,
                {.on_item = [](const ItemScores&) {}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("items.jsonl:2: cannot express"), std::string::npos);
  }
}

// Real sets: every file of the folder is read to its end.
TEST(RealSets, AllItemsAreUnderstood) {
  const auto folder = shared_folder() / "data" / "eval";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no folder " << folder;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jsonl") continue;
    const bool words = entry.path().filename().string().starts_with("lambada");
    EXPECT_GE(count_items(entry.path(), words ? ItemForm::kContinuation : ItemForm::kChoices, 200),
              100)
        << entry.path();
    ++files;
  }
  EXPECT_GE(files, 1);
}

}  // namespace
}  // namespace rookery
