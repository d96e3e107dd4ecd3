// The measures over files give what their parts give, tell how far they are, and end when asked.
#include "evaluation/files.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "evaluation/model_for_tests.h"

namespace rookery {
namespace {

class EvaluationFiles : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& text) {
    return save(folder_, name, text).string();
  }

  ThreadPool pool_{1};
  TemporaryFolder folder_;
  WordTokenizer tokenizer_;
  Model model_ = random_model(pool_);
};

TEST_F(EvaluationFiles, PerplexityReadsAllDocumentsOfAllFiles) {
  const std::string one = file("one.txt", "the king sings\n<|endoftext|>\na rook\n");
  const std::string two = file("two.jsonl", "{\"text\":\"sing\"}\n{\"text\":\"the end\"}\n");
  const std::vector<std::string> files = {one, two};
  std::vector<int64_t> tokens;
  std::vector<EvaluationProgress> heard;
  const PerplexityOfFiles measured = measure_perplexity(
      files, 0, model_, tokenizer_, pool_, {.reading = {.batch_tokens = 8}},
      [&](const EvaluationProgress& at) {
        heard.push_back(at);
        return true;
      },
      [&](const DocumentScore& score) { tokens.push_back(score.tokens); });
  EXPECT_EQ(tokens, (std::vector<int64_t>{9, 7, 2, 5}));
  EXPECT_EQ(measured.result.documents, 4);
  EXPECT_EQ(measured.result.tokens, 23);
  EXPECT_FALSE(measured.partial);
  double nats = 0;
  for (const char* document : {"the king sings\n", "a rook\n", "sing", "the end"}) {
    std::vector<int32_t> ids = {0};
    tokenizer_.encode_to(document, ids);
    for (const double log_p : log_probabilities(model_, pool_, ids)) nats -= log_p;
  }
  EXPECT_NEAR(measured.result.nats, nats, 1e-4);
  ASSERT_GE(heard.size(), 3u);
  const auto bytes =
      static_cast<int64_t>(std::filesystem::file_size(one) + std::filesystem::file_size(two));
  for (size_t i = 0; i < heard.size(); ++i) {
    EXPECT_EQ(heard[i].total, bytes);
    if (i > 0) {
      EXPECT_GT(heard[i].done, heard[i - 1].done);
      EXPECT_GT(heard[i].tokens_read, heard[i - 1].tokens_read);
    }
  }
  EXPECT_EQ(heard.back().tokens_read, measured.tokens_read);
  EXPECT_EQ(heard.back().done, measured.result.bytes);
}

TEST_F(EvaluationFiles, PerplexityOfTheFirstDocumentsOfEachFile) {
  const std::vector<std::string> files = {
      file("one.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"cd\"}\n"),
      file("two.jsonl", "{\"text\":\"ef\"}\n{\"text\":\"gh\"}\n")};
  const auto measured = measure_perplexity(files, 1, model_, tokenizer_, pool_, {});
  EXPECT_EQ(measured.result.documents, 2);
  EXPECT_EQ(measured.result.tokens, 4);
  EXPECT_FALSE(measured.partial);
}

TEST_F(EvaluationFiles, PerplexityEndsWhenAsked) {
  const std::vector<std::string> files = {file("text.txt", std::string(1000, 'a'))};
  int asked = 0;
  const auto measured =
      measure_perplexity(files, 0, model_, tokenizer_, pool_, {.reading = {.batch_tokens = 10}},
                         [&](const EvaluationProgress&) { return ++asked < 3; });
  EXPECT_TRUE(measured.partial);
  EXPECT_EQ(measured.tokens_read, 30);
  EXPECT_EQ(measured.result.tokens, 30);
  // After the last batch it is too late: all was read.
  const auto whole = measure_perplexity(files, 0, model_, tokenizer_, pool_, {},
                                        [](const EvaluationProgress&) { return false; });
  EXPECT_FALSE(whole.partial);
  EXPECT_EQ(whole.result.tokens, 1000);
}

TEST_F(EvaluationFiles, PerplexityTellsTokensOfThoseWanted) {
  const std::vector<std::string> files = {file("text.txt", std::string(100, 'a'))};
  EvaluationProgress last;
  const auto measured = measure_perplexity(files, 0, model_, tokenizer_, pool_,
                                           {.max_tokens = 20, .reading = {.batch_tokens = 10}},
                                           [&](const EvaluationProgress& at) {
                                             last = at;
                                             return true;
                                           });
  EXPECT_EQ(last.total, 20);
  EXPECT_EQ(last.done, 20);
  EXPECT_EQ(measured.result.tokens, 20);
  EXPECT_FALSE(measured.partial);
}

TEST_F(EvaluationFiles, PerplexityRefusesWhatHasNoTokens) {
  const std::vector<std::string> empty = {file("empty.txt", "")};
  EXPECT_THROW(measure_perplexity(empty, 0, model_, tokenizer_, pool_, {}), Error);
  const std::vector<std::string> wrong = {
      file("wrong.jsonl", "{\"text\":\"a\"}\n{\"text\":\"A\"}\n")};
  try {
    measure_perplexity(wrong, 0, model_, tokenizer_, pool_, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("wrong.jsonl:2"), std::string::npos) << error.what();
  }
}

TEST_F(EvaluationFiles, LossByPositionIsAPicture) {
  const std::vector<std::string> files = {file("text.txt", std::string(40, 'a'))};
  const auto measured = measure_perplexity(files, 0, model_, tokenizer_, pool_, {});
  const std::string svg = loss_by_position_svg(measured.result, "a title");
  EXPECT_TRUE(svg.starts_with("<svg"));
  EXPECT_NE(svg.find("a title"), std::string::npos);
  EXPECT_THROW(loss_by_position_svg({}, "nothing"), Error);
}

TEST_F(EvaluationFiles, LastWordsAreThoseOfTheItems) {
  std::string text;
  for (int i = 0; i < 5; ++i) {
    text += R"({"context":"the king )" + std::string(static_cast<size_t>(i), 'a') +
            R"(","continuation":"sings"})"
            "\n";
  }
  const std::string path = file("items.jsonl", text);
  Scorer scorer(model_, pool_, {.reading = {.batch_tokens = 4}});
  LastWord expected;
  std::vector<int64_t> done;
  const LastWordsOfFile measured =
      measure_last_words(path, tokenizer_, scorer,
                         {.limit = 4,
                          .on_progress =
                              [&](const EvaluationProgress& at) {
                                EXPECT_EQ(at.total, 4);
                                done.push_back(at.done);
                                return true;
                              },
                          .on_item = [&](const ItemScores& scores) { expected.add(scores); }});
  EXPECT_EQ(measured.measure.items(), 4);
  EXPECT_EQ(expected.items(), 4);
  EXPECT_EQ(measured.measure.accuracy().value, expected.accuracy().value);
  EXPECT_EQ(measured.measure.perplexity().value, expected.perplexity().value);
  EXPECT_EQ(measured.tokens_read, scorer.tokens_read());
  EXPECT_FALSE(measured.partial);
  EXPECT_EQ(done.front(), 0);
  // The scorer's tokens of before are not this file's.
  EXPECT_EQ(measure_last_words(path, tokenizer_, scorer, {.limit = 4}).tokens_read,
            measured.tokens_read);
}

TEST_F(EvaluationFiles, ChoicesEndWhenAsked) {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += R"({"context":"a","choices":["b","cd"],"gold":1})"
            "\n";
  const std::string path = file("items.jsonl", text);
  Scorer scorer(model_, pool_, {.reading = {.batch_tokens = 4}});
  const ChoicesOfFile all = measure_choices(path, tokenizer_, scorer);
  EXPECT_EQ(all.measure.items(), 40);
  EXPECT_FALSE(all.partial);
  const ChoicesOfFile some =
      measure_choices(path, tokenizer_, scorer,
                      {.on_progress = [](const EvaluationProgress& at) { return at.done == 0; }});
  EXPECT_TRUE(some.partial);
  EXPECT_GT(some.measure.items(), 0);
  EXPECT_LT(some.measure.items(), 40);
  EXPECT_EQ(some.measure.accuracy().value, all.measure.accuracy().value);
}

TEST_F(EvaluationFiles, WrongItemsAreKnownBeforeTheFirstIsScored) {
  const std::string path =
      file("items.jsonl", "{\"context\":\"a\",\"continuation\":\"b\"}\n{\"context\":1}\n");
  Scorer scorer(model_, pool_, {});
  EXPECT_THROW(measure_last_words(path, tokenizer_, scorer), Error);
  EXPECT_EQ(scorer.tokens_read(), 0);
}

}  // namespace
}  // namespace rookery
