// The World vocabulary: how it is written, which files are refused, the longest match, golden ids.
#include "tokenizers/world.h"

#include "tokenizers/files_for_tests.h"

namespace rookery {
namespace {

using Ids = std::vector<int32_t>;

// Longest match by trying every entry, from the definition.
Ids encode_by_definition(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  while (!text.empty()) {
    int32_t best = -1;
    size_t length = 0;
    for (int32_t id = 1; id < tokenizer.vocab_size(); ++id) {
      const std::string_view bytes = tokenizer.bytes_of(id);
      if (bytes.size() > length && text.starts_with(bytes)) {
        best = id;
        length = bytes.size();
      }
    }
    ids.push_back(best);
    text.remove_prefix(length);
  }
  return ids;
}

TEST(World, ReadsPythonLiterals) {
  const WorldTokenizer tokenizer(small_world({{R"('\n\n')", 2},
                                              {R"(' a b ')", 5},
                                              {R"("it's")", 4},
                                              {R"('\'"')", 2},
                                              {R"('\\\t\r')", 3},
                                              {R"('\xe9t')", 3},   // a code point in a string
                                              {R"(b'\xe9t')", 2},  // a byte in bytes
                                              {R"('\u2028x')", 4},
                                              {R"('\U0001f600')", 4},
                                              {"'\xe4\xbd\xa0'", 3}}),
                                 "test");
  EXPECT_EQ(tokenizer.name(), "world");
  EXPECT_EQ(tokenizer.vocab_size(), 267);
  const char* expected[] = {"\n\n",        " a b ",         "it's",
                            "'\"",         "\\\t\r",        "\xc3\xa9t",
                            "\xe9t",       "\xe2\x80\xa8x", "\xf0\x9f\x98\x80",
                            "\xe4\xbd\xa0"};
  for (int i = 0; i < 10; ++i) EXPECT_EQ(tokenizer.bytes_of(257 + i), expected[i]) << i;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer.bytes_of(byte + 1), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer.bytes_of(0), "");
  EXPECT_THROW(tokenizer.bytes_of(267), Error);
  EXPECT_THROW(tokenizer.bytes_of(-1), Error);
  EXPECT_EQ(tokenizer.encode(" a b it's"), (Ids{258, 259}));
}

TEST(World, LineEndsAndTheLastOneDoNotMatter) {
  const std::string text = small_world();
  std::string with_returns, json = "{";
  for (const char character : text) {
    if (character == '\n') with_returns += '\r';
    with_returns += character;
  }
  const WorldTokenizer plain(text, "test"), returns(with_returns, "test"),
      open(text.substr(0, text.size() - 1), "test");
  const std::string sample = "there is the\n\n    don't \xc3\xa9\xe4\xbd\xa0 \xff";
  const Ids ids = plain.encode(sample);
  EXPECT_EQ(plain.decode(ids), sample);
  EXPECT_EQ(returns.encode(sample), ids);
  EXPECT_EQ(open.encode(sample), ids);
  EXPECT_EQ(WorldTokenizer(plain.definition(), "again").encode(sample), ids);

  // The JSON twin.
  nlohmann::json twin;
  for (int32_t id = 1; id < plain.vocab_size(); ++id) {
    const std::string bytes(plain.bytes_of(id));
    const bool is_text = valid_utf8_prefix(bytes) == static_cast<int64_t>(bytes.size());
    if (is_text) {
      twin[std::to_string(id)] = bytes;
    } else {
      twin[std::to_string(id)] = std::vector<uint8_t>(bytes.begin(), bytes.end());
    }
  }
  const std::unique_ptr<Tokenizer> from_json = parse_tokenizer(twin.dump(), "twin");
  EXPECT_EQ(from_json->name(), "world");
  EXPECT_EQ(from_json->encode(sample), ids);
  EXPECT_EQ(from_json->vocab_size(), plain.vocab_size());
}

TEST(World, IdsMayHaveGapsAndZeroIsAName) {
  const WorldTokenizer tokenizer(small_world() + "0 '<end>' 5\n300 'zz' 2\n", "test");
  EXPECT_EQ(tokenizer.vocab_size(), 301);
  EXPECT_EQ(tokenizer.bytes_of(0), "");
  EXPECT_EQ(tokenizer.bytes_of(290), "");
  EXPECT_EQ(tokenizer.encode("<end>zz"), (Ids{61, 102, 111, 101, 63, 300}));
}

TEST(World, RefusesWhatIsNoVocabulary) {
  const auto error = [](const std::string& line) { return tokenizer_error(small_world() + line); };
  const std::pair<const char*, const char*> cases[] = {
      {"300", "expected ID LITERAL LENGTH"},
      {"300 'a'", "expected ID LITERAL LENGTH"},
      {"\n300 'ab' 2", "expected ID LITERAL LENGTH"},
      {"300 'ab' 3", "claims 3 bytes, its literal has 2"},
      {"300 'ab 2", "expected an id, a Python literal"},
      {"300 ab 2", "expected an id, a Python literal"},
      {"300 'a'b' 3", "expected an id, a Python literal"},
      {"300 '\\q' 1", "expected an id, a Python literal"},
      {"300 '\\' 1", "expected an id, a Python literal"},
      {"300 '\\x1' 1", "expected an id, a Python literal"},
      {"300 '\\ud800' 3", "expected an id, a Python literal"},
      {"300 '\\U00110000' 4", "expected an id, a Python literal"},
      {"300 b'\\u1234' 3", "expected an id, a Python literal"},
      {"-1 'ab' 2", "expected an id, a Python literal"},
      {"x 'ab' 2", "expected an id, a Python literal"},
      {"300 'ab' -2", "expected an id, a Python literal"},
      {"99999999999999999999 'ab' 2", "expected an id, a Python literal"},
      {"16000000 'ab' 2", "about as many as the tokens"},
      {"257 'ab' 2", "has the token 257 twice"},
      {"300 'the' 3", "tokens 258 and 300 have the same bytes"},
      {"300 '' 0", "has 0 bytes: expected 1 to 1024"},
      {"300 'a\xff' 2", "no UTF-8 text"},
  };
  for (const auto& [line, words] : cases) {
    EXPECT_NE(error(line).find(words), std::string::npos) << line << ": " << error(line);
  }
  EXPECT_NE(error(fmt::format("300 '{}' 1025", std::string(1025, 'y'))).find("1 to 1024"),
            std::string::npos);
  EXPECT_EQ(error(fmt::format("300 '{}' 1024", std::string(1024, 'y'))), "");
  const std::string text = small_world();
  EXPECT_NE(
      tokenizer_error(text.substr(text.find('\n') + 1)).find("no token for the single byte 0"),
      std::string::npos);
  for (const char* json : {R"({"1": 5})", R"({"1": [256]})", R"({"1": [-1]})", R"({"1": [1.5]})",
                           R"({"1": "a", "1": "b"})", R"({"1": "a", "x": "b"})", R"({"1": {}})",
                           R"({"1x": "a"})", R"({"1": "a")"}) {
    EXPECT_NE(tokenizer_error(json), "") << json;
  }
}

TEST(World, SurvivesTruncationAndMutation) {
  const std::string text = small_world();
  for (size_t length = 0; length < text.size(); ++length) {
    const std::string error = tokenizer_error(std::string_view(text).substr(0, length));
    // What is cut at the end of a line, behind the bytes, is a smaller vocabulary.
    const bool whole = length > 0 && (text[length - 1] == '\n' || text[length] == '\n');
    if (!whole) {
      EXPECT_NE(error, "") << length;
    }
  }
  expect_tokenizer_mutations_are_survived(text, 10000, 1);
}

TEST(World, LongestMatchIsThatOfTheDefinition) {
  std::mt19937 random(2);
  std::vector<std::pair<std::string, int>> literals;
  std::vector<std::string> known;
  for (int i = 0; i < 300; ++i) {
    std::string entry;
    for (uint32_t length = 2 + random() % 9; length > 0; --length) {
      entry += static_cast<char>('a' + random() % 3);
    }
    if (std::find(known.begin(), known.end(), entry) != known.end()) continue;
    known.push_back(entry);
    literals.emplace_back("'" + entry + "'", static_cast<int>(entry.size()));
  }
  const WorldTokenizer tokenizer(small_world(literals), "test");
  for (int i = 0; i < 100; ++i) {
    std::string text;
    for (uint32_t length = random() % 100; length > 0; --length) {
      text += static_cast<char>('a' + random() % 4);
    }
    EXPECT_EQ(tokenizer.encode(text), encode_by_definition(tokenizer, text)) << text;
  }
}

class RealWorld : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::filesystem::exists(world_file())) tokenizer_ = load_tokenizer(world_file());
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }
  void SetUp() override {
    if (tokenizer_ == nullptr) GTEST_SKIP() << "no " << world_file();
  }
  inline static std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(RealWorld, GoldenIds) {
  const std::pair<const char*, Ids> cases[] = {
      {"User: hi\n\nAssistant:", {24281, 59, 4571, 261, 5585, 41693, 59}},
      {"User: hi\n\nAssistant: <think", {24281, 59, 4571, 261, 5585, 41693, 59, 295, 35762}},
      {"Assistant: <think>\n</think", {5585, 41693, 59, 295, 35762, 63, 11, 754, 35762}},
      {"<think></think", {61, 35762, 5439, 35762}},
      {"Hello, World! \n\nThe quick", {33155, 45, 37576, 34, 3336, 6699, 39418}},
      {"The Eiffel tower is in the city of",
       {6699, 304, 25740, 109, 39990, 4600, 4596, 22590, 30449, 4706}},
      {"1234567890", {632, 654, 676, 698, 710}},
      {"3.14", {52, 47, 634}},
      {"\u4F60\u597D\uFF0C\u4E16\u754C", {10464, 11685, 19137, 10267, 14610}},
      {"\U0001F600", {3319, 153, 129}},
      {"<s>", {61, 116, 63}},
      {"\r\n\r\n", {19244}},
      {"\t", {10}},
      {"\n\n\n", {3328}},
      {"\u273F", {10060}},
      {"", {}},
  };
  EXPECT_EQ(tokenizer_->vocab_size(), 65530);
  for (const auto& [text, ids] : cases) {
    EXPECT_EQ(tokenizer_->encode(text), ids) << text;
    EXPECT_EQ(tokenizer_->decode(ids), text);
  }
  EXPECT_EQ(tokenizer_->bytes_of(65529), std::string(128, ' '));
}

TEST_F(RealWorld, EveryEntryIsItsOwnToken) {
  for (int32_t id = 1; id < tokenizer_->vocab_size(); ++id) {
    ASSERT_EQ(tokenizer_->encode(tokenizer_->bytes_of(id)), Ids{id});
  }
}

TEST_F(RealWorld, AnyBytesComeBack) {
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const std::string text = i % 2 == 0 ? random_bytes(random, 500) : random_text(random, 200);
    const Ids ids = tokenizer_->encode(text);
    EXPECT_EQ(tokenizer_->decode(ids), text);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);
  }
}

TEST_F(RealWorld, PaddingRowsOfAModelAreNoText) {
  const std::unique_ptr<Tokenizer> padded = with_padding_ids(load_tokenizer(world_file()), 65536);
  EXPECT_EQ(padded->vocab_size(), 65536);
  EXPECT_EQ(padded->decode(Ids{24281, 65530, 59, 65535}), "User:");
  EXPECT_EQ(padded->encode("User:"), (Ids{24281, 59}));
  EXPECT_EQ(padded->definition(), tokenizer_->definition());
  EXPECT_THROW(padded->bytes_of(65536), Error);
  EXPECT_EQ(with_padding_ids(load_tokenizer(world_file()), 65530)->vocab_size(), 65530);
}

}  // namespace
}  // namespace rookery
