#include "evaluation/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "reporting/line_plot.h"
#include "evaluation/model_for_tests.h"

namespace rookery {
namespace {

class PerplexityTest : public ::testing::Test {
 protected:
  PerplexityTest() {
    // Documents of 1 to 700 bytes.
    for (int d = 0; d < 9; ++d) {
      std::string text;
      for (int i = 0; static_cast<int>(text.size()) < 1 + d * d * 11; ++i) {
        text += i % 3 == 0 ? "the " : i % 3 == 1 ? "sing" : "a b\n";
        text += static_cast<char>('a' + (i * 7 + d) % 26);
      }
      documents_.push_back(text);
    }
  }

  PerplexityResult measure(const Model& model, const PerplexityOptions& options,
                           std::vector<DocumentScore>* scores = nullptr) {
    Perplexity perplexity(model, tokenizer_, pool_, options);
    if (scores != nullptr) {
      perplexity.on_document = [&](const DocumentScore& score) { scores->push_back(score); };
    }
    for (const std::string& text : documents_) {
      if (!perplexity.add(text, true)) break;
    }
    perplexity.finish();
    return perplexity.result();
  }

  ThreadPool pool_{2};
  WordTokenizer tokenizer_;
  Model model_ = random_model(pool_);
  std::vector<std::string> documents_;
};

int64_t words_of(const std::string& text) {
  std::istringstream stream(text);
  return std::distance(std::istream_iterator<std::string>(stream), {});
}

TEST_F(PerplexityTest, EveryDocumentAloneByTheDefinition) {
  for (const int64_t batch : {4096, 100, 1}) {
    std::vector<DocumentScore> scores;
    const PerplexityResult result = measure(model_, {.reading = {.batch_tokens = batch}}, &scores);
    ASSERT_EQ(scores.size(), documents_.size());
    double nats = 0;
    int64_t tokens = 0, bytes = 0, words = 0;
    for (size_t d = 0; d < documents_.size(); ++d) {
      std::vector<int32_t> ids = {0};
      tokenizer_.encode_to(documents_[d], ids);
      const std::vector<double> values = log_probabilities(model_, pool_, ids);
      const double sum = -std::accumulate(values.begin(), values.end(), 0.0);
      EXPECT_NEAR(scores[d].nats, sum, 1e-5 * static_cast<double>(ids.size())) << d;
      EXPECT_EQ(scores[d].tokens, static_cast<int64_t>(values.size()));
      EXPECT_EQ(scores[d].bytes, static_cast<int64_t>(documents_[d].size()));
      EXPECT_EQ(scores[d].words, words_of(documents_[d]));
      nats += sum;
      tokens += static_cast<int64_t>(values.size());
      bytes += static_cast<int64_t>(documents_[d].size());
      words += words_of(documents_[d]);
    }
    EXPECT_EQ(result.documents, static_cast<int64_t>(documents_.size()));
    EXPECT_EQ(result.tokens, tokens);
    EXPECT_EQ(result.bytes, bytes);
    EXPECT_EQ(result.words, words);
    EXPECT_NEAR(result.nats_per_token(), nats / static_cast<double>(tokens), 1e-5);
    EXPECT_NEAR(result.bits_per_byte(), nats / std::log(2.0) / static_cast<double>(bytes), 1e-5);
    EXPECT_NEAR(result.word_perplexity(), std::exp(nats / static_cast<double>(words)),
                1e-3 * result.word_perplexity());
    EXPECT_TRUE(result.error_over_documents);
  }
}

TEST_F(PerplexityTest, UniformModelKnowsNothing) {
  const PerplexityResult result = measure(uniform_model(pool_), {});
  EXPECT_NEAR(result.nats_per_token(), std::log(31.0), 1e-12);
  EXPECT_NEAR(result.token_perplexity(), 31, 1e-10);
  EXPECT_NEAR(*result.error, 0, 1e-12);
  for (const PositionBin& bin : result.bins) EXPECT_NEAR(bin.nats.value(), std::log(31.0), 1e-12);
}

TEST_F(PerplexityTest, StateGoesOnWithoutReset) {
  const PerplexityResult result =
      measure(model_, {.reset = false, .reading = {.batch_tokens = 64}});
  std::vector<int32_t> ids;
  std::vector<bool> counts;
  for (const std::string& text : documents_) {
    ids.push_back(0);
    counts.push_back(false);  // the end of a document is not predicted
    tokenizer_.encode_to(text, ids);
    counts.resize(ids.size(), true);
  }
  const std::vector<double> values = log_probabilities(model_, pool_, ids);
  double nats = 0;
  for (size_t i = 0; i < values.size(); ++i) nats -= counts[i + 1] ? values[i] : 0;
  EXPECT_NEAR(result.nats, nats, 1e-5 * static_cast<double>(ids.size()));
  const PerplexityResult apart = measure(model_, {});
  EXPECT_EQ(result.tokens, apart.tokens);
  EXPECT_GT(std::abs(result.nats - apart.nats), 1e-3);
  // The first document is the same; positions count from each document's start.
  EXPECT_EQ(result.bins.size(), apart.bins.size());
  for (size_t i = 0; i < result.bins.size(); ++i) {
    EXPECT_EQ(result.bins[i].nats.count(), apart.bins[i].nats.count());
  }
}

TEST_F(PerplexityTest, WindowsAsInTraining) {
  const int64_t context = 16;
  const PerplexityResult result =
      measure(model_, {.context = context, .reading = {.batch_tokens = 50}});
  double nats = 0;
  int64_t tokens = 0;
  for (const std::string& text : documents_) {
    std::vector<int32_t> ids = {0};
    tokenizer_.encode_to(text, ids);
    for (size_t begin = 0; begin + 1 < ids.size(); begin += context) {
      const size_t end = std::min(ids.size(), begin + context + 1);
      const auto values = log_probabilities(
          model_, pool_, std::vector<int32_t>(ids.begin() + begin, ids.begin() + end));
      nats -= std::accumulate(values.begin(), values.end(), 0.0);
      tokens += static_cast<int64_t>(values.size());
    }
  }
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_NEAR(result.nats, nats, 1e-5 * static_cast<double>(tokens));
  EXPECT_EQ(result.bins.back().last, context);
  EXPECT_THROW(measure(model_, {.reset = false, .context = 16}), Error);
}

TEST_F(PerplexityTest, WithoutStartToken) {
  const PerplexityResult result = measure(model_, {.start_token = false});
  double nats = 0;
  int64_t tokens = 0;
  for (const std::string& text : documents_) {
    const std::vector<int32_t> ids = tokenizer_.encode(text);
    const auto values = log_probabilities(model_, pool_, ids);
    nats -= std::accumulate(values.begin(), values.end(), 0.0);
    tokens += static_cast<int64_t>(ids.size()) - 1;
  }
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_NEAR(result.nats, nats, 1e-5 * static_cast<double>(tokens));
}

TEST_F(PerplexityTest, NeitherStartTokenNorReset) {
  documents_.insert(documents_.begin(), "z");
  const PerplexityResult result =
      measure(model_, {.reset = false, .start_token = false, .reading = {.batch_tokens = 64}});
  std::vector<int32_t> ids;
  for (const std::string& text : documents_) tokenizer_.encode_to(text, ids);
  const auto values = log_probabilities(model_, pool_, ids);
  EXPECT_EQ(result.tokens, static_cast<int64_t>(values.size()));
  EXPECT_NEAR(result.nats, -std::accumulate(values.begin(), values.end(), 0.0),
              1e-5 * static_cast<double>(ids.size()));
}

TEST_F(PerplexityTest, PiecesOfADocument) {
  // "the" is never cut here, so the tokens are the same.
  Perplexity pieces(model_, tokenizer_, pool_, {});
  Perplexity whole(model_, tokenizer_, pool_, {});
  std::string all;
  for (const std::string& text : documents_) {
    pieces.add(text + " ", false);
    all += text + " ";
  }
  pieces.add("", true);
  pieces.add("", true);  // an empty document is none
  pieces.finish();
  whole.add(all, true);
  whole.finish();
  EXPECT_EQ(pieces.result().nats, whole.result().nats);
  EXPECT_EQ(pieces.result().documents, 1);
  EXPECT_EQ(pieces.result().words, words_of(all));
}

TEST_F(PerplexityTest, ErrorOverDocumentsAndOverBlocks) {
  std::vector<DocumentScore> scores;
  const PerplexityResult result = measure(model_, {}, &scores);
  Ratio over;
  for (const DocumentScore& score : scores) over.add(score.nats, static_cast<double>(score.tokens));
  EXPECT_DOUBLE_EQ(*result.error, *over.error());

  std::string text;
  while (text.size() < 2 * Perplexity::kBlockTokens + 500) text += "abcdefg hij";
  documents_ = {text};
  const PerplexityResult one = measure(model_, {});
  EXPECT_FALSE(one.error_over_documents);
  std::vector<int32_t> ids = {0};
  tokenizer_.encode_to(text, ids);
  const auto values = log_probabilities(model_, pool_, ids);
  Ratio blocks;
  for (size_t i = 0; i < values.size(); i += Perplexity::kBlockTokens) {
    const size_t end = std::min(values.size(), i + Perplexity::kBlockTokens);
    blocks.add(-std::accumulate(values.begin() + i, values.begin() + end, 0.0),
               static_cast<double>(end - i));
  }
  EXPECT_EQ(blocks.count(), 3);
  EXPECT_NEAR(*one.error, *blocks.error(), 1e-5);
  documents_ = {"abc"};
  EXPECT_FALSE(measure(model_, {}).error.has_value());
}

TEST_F(PerplexityTest, LossByPosition) {
  documents_ = {"abcdefghijklm", "nop"};
  const PerplexityResult result = measure(model_, {.bins = {1, 2, 5}});
  std::vector<double> sums(3);
  std::vector<int64_t> counts(3);
  for (const std::string& text : documents_) {
    std::vector<int32_t> ids = {0};
    tokenizer_.encode_to(text, ids);
    const auto values = log_probabilities(model_, pool_, ids);
    for (size_t i = 0; i < values.size(); ++i) {
      const int bin = i + 1 < 2 ? 0 : i + 1 < 5 ? 1 : 2;
      sums[bin] -= values[i];
      ++counts[bin];
    }
  }
  ASSERT_EQ(result.bins.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(result.bins[i].nats.count(), counts[i]);
    EXPECT_NEAR(result.bins[i].nats.value(), sums[i] / static_cast<double>(counts[i]), 1e-4);
  }
  EXPECT_EQ(result.bins[2].first, 5);
  EXPECT_EQ(result.bins[2].last, 13);
  EXPECT_EQ(measure(model_, {}).bins.back().first, 8);
  EXPECT_THROW(measure(model_, {.bins = {2, 3}}), Error);
  EXPECT_THROW(measure(model_, {.bins = {1, 3, 3}}), Error);
}

TEST_F(PerplexityTest, StopsWhenAsked) {
  EXPECT_EQ(measure(model_, {.max_tokens = 37}).tokens, 37);
  int left = 3;
  const PerplexityResult result =
      measure(model_, {.reading = {.batch_tokens = 20}, .go_on = [&] { return --left > 0; }});
  // Three batches, each with at most one token that asks nothing.
  EXPECT_GT(result.tokens, 50);
  EXPECT_LE(result.tokens, 60);
  documents_ = {"not for this tokenizer: 5"};
  EXPECT_THROW(measure(model_, {}), Error);
}

TEST(LinePlot, IsAPicture) {
  const std::vector<PlotPoint> points = {
      {1, 5, 0.5}, {2, 4, 0.1}, {1000, NAN, 1}, {4096, 2.5, NAN}};
  const std::string svg = line_plot_svg(points, {.title = "a < b & \"c\"\n", .x = "x", .y = "y"});
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;?"), std::string::npos);
  EXPECT_NE(svg.find(">4096</text>"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  size_t circles = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    ++circles;
  }
  EXPECT_EQ(circles, 3u);
  // The first point is at the left end, the last at the right.
  EXPECT_NE(svg.find("<polyline points=\"80.0,"), std::string::npos);
  EXPECT_NE(svg.find(" 780.0,"), std::string::npos);
  EXPECT_THROW(line_plot_svg(std::vector<PlotPoint>{{1, NAN}, {0, 1}}, {}), Error);
  EXPECT_NE(line_plot_svg(std::vector<PlotPoint>{{1, 0}}, {}).find("<circle"), std::string::npos);
}

}  // namespace
}  // namespace rookery
