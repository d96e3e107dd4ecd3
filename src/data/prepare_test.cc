// Text to tokens on disk and back.
#include "data/prepare.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "data/binidx.h"
#include "data/text_pieces.h"
#include "data/tokenizer_for_tests.h"
#include "data/training_data.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

class Prepare : public ::testing::Test {
 protected:
  fs::path file(const std::string& name, const std::string& text) {
    return save(folder_, name, text);
  }
  PrepareResult make(const std::vector<fs::path>& inputs, const Tokenizer& tokenizer,
                     const PrepareOptions& options = {}) {
    std::optional<PrepareResult> result =
        prepare(inputs, name_, tokenizer, options, pool_, [](const auto&) { return true; });
    EXPECT_TRUE(result.has_value());
    return result.value_or(PrepareResult());
  }
  std::string refusal(const std::vector<fs::path>& inputs, const Tokenizer& tokenizer,
                      const PrepareOptions& options = {}) {
    try {
      make(inputs, tokenizer, options);
    } catch (const Error& error) {
      EXPECT_FALSE(fs::exists(idx_of(name_)) || fs::exists(bin_of(name_)));
      for (const auto& entry : fs::directory_iterator(folder_.path())) {
        EXPECT_FALSE(entry.path().filename().string().ends_with(".partial"));
      }
      return error.what();
    }
    return "";
  }
  // All tokens as text, "|" for 0, those that are not learned in parentheses.
  std::string text_of(const Tokenizer& tokenizer) {
    const PreparedData data(name_);
    std::string text;
    bool learned = true;
    for (int64_t i = 0; i < data.tokens.tokens().size(); ++i) {
      const bool now = data.mask().empty() || data.mask()[static_cast<size_t>(i)] == 1;
      if (now != learned) text += now ? ")" : "(";
      learned = now;
      const auto id = static_cast<int32_t>(data.tokens.tokens()[i]);
      text += id == 0 ? "|" : tokenizer.bytes_of(id);
    }
    return text;
  }

  TemporaryFolder folder_;
  fs::path name_ = folder_.path() / "out";
  ThreadPool pool_{2};
};

constexpr const char* kChat =
    R"({"messages": [{"role": "user", "content": "hi you"}, {"role": "assistant", "content": "go on"}]})";

TEST_F(Prepare, InputsComeInTheirOrder) {
  const SpaceTokenizer tokenizer;
  const PrepareResult result = make(
      {file("a.txt", "one two\n<|endoftext|>\nthree"),
       file("b.jsonl", std::string("{\"text\": \"four five\"}\n\n") + kChat + "\n{\"text\":\"\"}"),
       file("c.txt", "six")},
      tokenizer);
  EXPECT_EQ(text_of(tokenizer),
            "one two\n|three|four five|(User: hi you\n\nAssistant:) go on|six|");
  EXPECT_EQ(result.about.documents, 5);
  EXPECT_EQ(result.about.bytes, 8 + 5 + 9 + 30 + 3);
  EXPECT_TRUE(result.has_mask);
  EXPECT_EQ(result.type, TokenType::kU16);
  const PreparedData data(name_);
  EXPECT_EQ(data.tokens.documents(), 5);
  ASSERT_TRUE(data.about.has_value());
  EXPECT_EQ(to_json(*data.about), to_json(result.about));
  EXPECT_EQ(data.about->tokenizer, "space 600");
  EXPECT_EQ(data.about->largest_id, 344 + 'y');
  EXPECT_EQ(data.about->learned, std::count(data.mask().begin(), data.mask().end(), uint8_t{1}));
}

TEST_F(Prepare, WithoutAMaskEverythingIsLearned) {
  const ByteTokenizer tokenizer;
  EXPECT_FALSE(make({file("a.jsonl", kChat)}, tokenizer, {.masked = false}).has_mask);
  EXPECT_EQ(text_of(tokenizer), "User: hi you\n\nAssistant: go on|");
  make({file("a.jsonl", kChat)}, tokenizer, {.chat = chat_template("raven")});
  EXPECT_EQ(text_of(tokenizer), "(Bob: hi you\n\nAlice:) go on|");
  EXPECT_FALSE(make({file("a.txt", "x")}, tokenizer).has_mask);
}

// What the user says last nobody answers: it is not learned, nor that the conversation ends there.
TEST_F(Prepare, TheEndAfterAQuestionIsNotLearned) {
  const ByteTokenizer tokenizer;
  const std::string question =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, )"
      R"({"role": "user", "content": "c"}]})";
  const PrepareResult result =
      make({file("a.jsonl", question + "\n{\"text\": \"d\"}\n")}, tokenizer);
  EXPECT_EQ(text_of(tokenizer), "(User: a\n\nAssistant:) b\n\n(User: c|)d|");
  EXPECT_EQ(result.about.learned, 4 + 2);
  // The file itself: a byte for each token.
  const std::string mask = read_text_file(mask_of(name_));
  EXPECT_EQ(mask, std::string(19, '\0') + std::string(4, '\1') + std::string(8, '\0') + "\1\1");
}

TEST_F(Prepare, ManyThreadsAndPiecesMakeTheTokensOfOne) {
  const SpaceTokenizer tokenizer(70000);
  std::string text, lines;
  for (int i = 0; text.size() < 3 * kLongestPiece; ++i) {
    text += "line " + std::to_string(i) + " of the text\n";
    if (i == 1000) text += "<|endoftext|>\n";
    if (i % 10 == 0) lines += "{\"text\": \"number " + std::to_string(i) + "\"}\n";
  }
  const std::vector<fs::path> inputs{file("a.txt", text), file("b.jsonl", lines)};
  make(inputs, tokenizer);
  const std::string bin = read_text_file(bin_of(name_)), idx = read_text_file(idx_of(name_));
  const auto parallel = [&](int threads) {
    ThreadPool pool(threads);
    prepare(inputs, name_, tokenizer, {}, pool, [](const auto&) { return true; });
    return read_text_file(bin_of(name_)) == bin && read_text_file(idx_of(name_)) == idx;
  };
  EXPECT_TRUE(parallel(1));
  EXPECT_TRUE(parallel(5));
  const BinIdx data(name_);
  EXPECT_EQ(data.tokens().type(), TokenType::kI32);
  // The second document is longer than a piece; it has the tokens of the whole.
  const std::vector<int32_t> whole =
      tokenizer.encode(std::string_view(text).substr(text.find(">\n") + 2));
  ASSERT_EQ(data.size_of_sequence(1), static_cast<int64_t>(whole.size()) + 1);
  const int64_t first = data.size_of_sequence(0);
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_EQ(data.tokens()[first + static_cast<int64_t>(i)], whole[i]) << i;
  }
}

TEST_F(Prepare, InvalidLinesAreNamedOrCounted) {
  const SpaceTokenizer tokenizer;
  const fs::path lines = file("x.jsonl", "{\"text\": \"good\"}\n\nbad\n{\"text\": \"~\"}\n" +
                                             std::string("{\"messages\": [{\"role\": \"boss\", ") +
                                             "\"content\": \"~\"}]}\n{\"text\": \"end\"}\n");
  const std::string error = refusal({lines}, tokenizer);
  EXPECT_NE(error.find("x.jsonl:3: this is not JSON"), std::string::npos) << error;
  const PrepareResult result = make({lines}, tokenizer, {.skip_invalid = true});
  EXPECT_EQ(result.invalid, 3);
  EXPECT_NE(result.first_invalid.find("x.jsonl:3"), std::string::npos) << result.first_invalid;
  EXPECT_EQ(text_of(tokenizer), "good|end|");
  EXPECT_EQ(result.about.bytes, 7);
  // Nothing is left over of a line whose second half was bad.
  make({file("y.jsonl",
             "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
             "\"content\": \"b~\"}]}\n{\"text\": \"end\"}\n")},
       tokenizer, {.skip_invalid = true});
  EXPECT_EQ(text_of(tokenizer), "end|");
}

TEST_F(Prepare, RefusesWhatCannotBe) {
  const ByteTokenizer bytes;
  EXPECT_NE(refusal({}, bytes), "");
  EXPECT_NE(refusal({folder_.path() / "missing.txt"}, bytes).find("missing.txt"),
            std::string::npos);
  EXPECT_NE(refusal({folder_.path()}, bytes), "");
  EXPECT_NE(refusal({file("a.json", "[]")}, bytes).find(".jsonl"), std::string::npos);
  EXPECT_NE(refusal({file("a.txt", std::string("a\0", 2))}, bytes).find("byte 0"),
            std::string::npos);
  EXPECT_NE(refusal({file("a.jsonl", R"({"text": "a\u0000"})")}, bytes).find("a.jsonl:1"),
            std::string::npos);
  EXPECT_NE(refusal({file("a.txt", "")}, bytes).find("empty"), std::string::npos);
  EXPECT_NE(refusal({file("a.bin", "x")}, bytes).find("prepared already"), std::string::npos);
  EXPECT_NE(refusal({file("a.jsonl", "{\"text\": \"" + std::string(kLongestLine, 'x') + "\"}")},
                    bytes, {.skip_invalid = true})
                .find("a.jsonl:1: the line"),
            std::string::npos);
  // A tokenizer that lets text end a document.
  class Wrong final : public Tokenizer {
   public:
    std::string_view name() const override { return "wrong"; }
    int64_t vocab_size() const override { return 2; }
    void encode_to(std::string_view, std::vector<int32_t>& ids) const override { ids.push_back(0); }
    std::string_view bytes_of(int32_t) const override { return ""; }
    std::string definition() const override { return "wrong"; }
  };
  EXPECT_NE(refusal({file("a.txt", "x")}, Wrong()).find("end of a document"), std::string::npos);
}

TEST_F(Prepare, StopsWithoutATrace) {
  const ByteTokenizer tokenizer;
  const fs::path input = file("a.txt", std::string(20 << 20, 'x'));
  int calls = 0;
  const auto result = prepare(std::vector{input}, name_, tokenizer, {}, pool_,
                              [&](const PrepareProgress& progress) {
                                EXPECT_GT(progress.bytes_read, 0);
                                return ++calls < 2;
                              });
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1);
}

TEST_F(Prepare, DescriptionsAreNotBelieved) {
  make({file("a.txt", "some text")}, ByteTokenizer());
  const std::string about = read_text_file(about_of(name_));
  ASSERT_NO_THROW(about_from_json(about, "x"));
  const auto refuses = [&](const std::string& from, const std::string& to) {
    std::string changed = about;
    ASSERT_NE(changed.find(from), std::string::npos) << from;
    changed.replace(changed.find(from), from.size(), to);
    EXPECT_THROW(about_from_json(changed, "x"), Error) << changed;
  };
  refuses("\"tokens\": 10", "\"tokens\": -1");
  refuses("\"tokens\": 10", "\"tokens\": \"10\"");
  refuses("\"largest_id\": 120", "\"largest_id\": 256");
  refuses("\"vocabulary\": 256", "\"vocabulary\": 9999999999");
  refuses("\"tokenizer\"", "\"tokeniser\"");
  refuses("}", "");
  // And it belongs to its data.
  file("out.json", [&] {
    std::string changed = about;
    return changed.replace(changed.find("\"tokens\": 10"), 12, "\"tokens\": 11");
  }());
  EXPECT_THROW(PreparedData data(name_), Error);
  file("out.json", about);
  EXPECT_NO_THROW(PreparedData data(name_));
  file("out.mask", "123");
  EXPECT_THROW(PreparedData data(name_), Error);
}

}  // namespace
}  // namespace rookery
