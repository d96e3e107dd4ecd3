// Byte-level BPE: beside a slow implementation from the definition, golden ids of GPT-NeoX's
// tokenizer, what text may look like, which files are refused.
#include "tokenizers/bpe.h"

#include <chrono>
#include <fstream>
#include <map>
#include <thread>

#include "tokenizers/files_for_tests.h"

namespace rookery {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

std::unique_ptr<Tokenizer> make(const Json& json) { return parse_tokenizer(json.dump(), "test"); }

// From the definition, with strings: PCRE2 splits, then the lowest rank first, the leftmost of
// equals. For text in normal form C without added tokens.
class Definition {
 public:
  explicit Definition(const Json& json) : vocabulary_(json["model"]["vocab"]) {
    int rank = 0;
    for (const Json& merge : json["model"]["merges"]) {
      const std::string text = merge.get<std::string>();
      const size_t space = text.find(' ');
      ranks_[{text.substr(0, space), text.substr(space + 1)}] = rank++;
    }
  }
  Ids encode(std::string_view text) const {
    Ids ids;
    const Regex regex(kGpt2Pattern);
    Regex::Matches matches(regex, text);
    while (const auto match = matches.next()) {
      std::vector<std::string> symbols;
      for (int64_t i = match->begin; i < match->end; ++i) {
        symbols.push_back(in_alphabet(text.substr(i, 1)));
      }
      while (true) {
        int best = -1;
        size_t place = 0;
        for (size_t i = 0; i + 1 < symbols.size(); ++i) {
          const auto found = ranks_.find({symbols[i], symbols[i + 1]});
          if (found == ranks_.end() || (best >= 0 && found->second >= best)) continue;
          best = found->second;
          place = i;
        }
        if (best < 0) break;
        symbols[place] += symbols[place + 1];
        symbols.erase(symbols.begin() + static_cast<int64_t>(place) + 1);
      }
      for (const std::string& symbol : symbols) ids.push_back(vocabulary_[symbol].get<int32_t>());
    }
    return ids;
  }

 private:
  std::map<std::pair<std::string, std::string>, int> ranks_;
  const Json vocabulary_;
};

TEST(Bpe, MergesByRankWithinPieces) {
  const auto tokenizer = make(small_bpe());
  EXPECT_EQ(tokenizer->name(), "bpe");
  EXPECT_EQ(tokenizer->vocab_size(), 268);
  EXPECT_EQ(tokenizer->encode("the"), Ids{258});
  EXPECT_EQ(tokenizer->encode(" the"), Ids{259});
  EXPECT_EQ(tokenizer->encode("hell"), Ids{261});
  EXPECT_EQ(tokenizer->encode("aaaa"), (Ids{262, 262}));
  EXPECT_EQ(tokenizer->encode("aaa"), Ids{263});
  EXPECT_EQ(tokenizer->encode("a\na"), (Ids{98, 11, 98}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  for (int32_t id = 1; id < tokenizer->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer->bytes_of(id);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
  }
  EXPECT_THROW(tokenizer->bytes_of(268), Error);
  EXPECT_THROW(tokenizer->bytes_of(-1), Error);
}

TEST(Bpe, MergesMayBePairs) {
  Json json = small_bpe();
  for (Json& merge : json["model"]["merges"]) {
    const std::string text = merge.get<std::string>();
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  EXPECT_EQ(make(json)->encode("the hell"), make(small_bpe())->encode("the hell"));
}

TEST(Bpe, SpecialTokensCannotBeWritten) {
  const auto tokenizer = make(small_bpe());
  const std::string text = "a<|endoftext|>b";
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->bytes_of(0), "");
  const BpeTokenizer bpe(small_bpe().dump(), "test");
  ASSERT_EQ(bpe.special_tokens().size(), 1u);
  EXPECT_EQ(bpe.special_tokens()[0].second, "<|endoftext|>");
}

TEST(Bpe, AddedTokensAreCutOutFirstAndLongest) {
  const auto tokenizer = make(small_bpe());
  const int32_t two = 266, four = 267;
  EXPECT_EQ(tokenizer->encode("    "), Ids{four});
  EXPECT_EQ(tokenizer->encode("      "), (Ids{four, two}));
  EXPECT_EQ(tokenizer->encode("     the"), (Ids{four, 259}));
  EXPECT_EQ(tokenizer->encode("  the"), (Ids{two, 258}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a     b")), "a     b");
}

TEST(Bpe, TextIsBroughtToNormalFormC) {
  const auto tokenizer = make(small_bpe());
  EXPECT_EQ(tokenizer->encode("e\xcc\x81"), tokenizer->encode("\xc3\xa9"));
  EXPECT_EQ(tokenizer->encode("\xc3\xa9"), Ids{264});
  Json plain = small_bpe();
  plain["normalizer"] = nullptr;
  EXPECT_EQ(make(plain)->encode("e\xcc\x81").size(), 3u);
  plain["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  EXPECT_EQ(make(plain)->encode("e\xcc\x81"), Ids{264});
}

// An added token is cut out before normal form C, or, if the file says that it is normalised,
// looked for behind it: then its own text is brought there, too.
TEST(Bpe, AddedTokensMayBeNormalised) {
  Json json = small_bpe();
  const auto add = [&](int id, const char* content, bool normalized) {
    Json added = json["added_tokens"][1];
    added["id"] = id;
    added["content"] = content;
    added["normalized"] = normalized;
    json["added_tokens"].push_back(added);
  };
  add(268, "xe\u0301", true);
  add(269, "ye\u0301", false);
  const auto tokenizer = make(json);
  EXPECT_EQ(tokenizer->encode("xe\u0301"), Ids{268});
  EXPECT_EQ(tokenizer->encode("x\u00e9"), Ids{268});
  EXPECT_EQ(tokenizer->encode("ye\u0301"), Ids{269});
  EXPECT_EQ(tokenizer->encode("y\u00e9"), (Ids{122, 264}));
  EXPECT_EQ(tokenizer->encode("ax\u00e9ye\u0301a"), (Ids{98, 268, 269, 98}));
  json["normalizer"] = nullptr;
  EXPECT_EQ(make(json)->encode("xe\u0301"), Ids{268});
  EXPECT_EQ(make(json)->encode("x\u00e9"), (Ids{121, 264}));
}

// Which character of a file stands for which byte, as the published table of GPT-2 has it.
TEST(Bpe, TheAlphabetOfBytes) {
  EXPECT_EQ(in_alphabet("A!~"), "A!~");
  EXPECT_EQ(in_alphabet(std::string("\0\n \x7f\xa0\xad\xff", 7)),
            "\u0100\u010a\u0120\u0121\u0142\u0143\u00ff");
  const auto tokenizer = make(small_bpe());
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->bytes_of(byte + 1), std::string(1, static_cast<char>(byte)));
  }
}

TEST(Bpe, BytesThatAreNoTextComeBack) {
  const auto tokenizer = make(small_bpe());
  std::mt19937 random(4);
  for (int i = 0; i < 300; ++i) {
    std::string text = random_bytes(random, 60);
    const Ids ids = tokenizer->encode(text);
    const std::string back = tokenizer->decode(ids);
    // Random bytes hold a few characters, whose normal form may differ.
    EXPECT_EQ(tokenizer->encode(back), ids);
    if (is_surely_nfc(std::string_view(text).substr(0, valid_utf8_prefix(text)))) {
      EXPECT_EQ(back.size(), text.size());
    }
  }
  EXPECT_EQ(tokenizer->encode("the\xffhell"), (Ids{258, 256, 261}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xe4\xbd z\x80")), "a\xe4\xbd z\x80");
}

TEST(Bpe, PrefixSpaceAndExpressions) {
  Json json = small_bpe();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(make(json)->encode("the"), Ids{259});
  EXPECT_EQ(make(json)->encode(" the"), Ids{259});

  // Digits one by one; ByteLevel does not split again.
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto split = [](const char* pattern, const char* behavior, bool invert) {
    return Json{{"type", "Split"},
                {"pattern", {{"Regex", pattern}}},
                {"behavior", behavior},
                {"invert", invert}};
  };
  json["model"]["merges"].push_back("1 2");
  json["model"]["vocab"]["12"] = 500;
  json["pre_tokenizer"] = byte_level;
  EXPECT_EQ(make(json)->encode("a12"), (Ids{98, 500}));
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {split("[0-9]", "Isolated", false), byte_level}}};
  EXPECT_EQ(make(json)->encode("a12the"), (Ids{98, 50, 51, 258}));
  json["pre_tokenizer"]["pretokenizers"][0] = split("[a-z]+|[0-9]+", "Removed", true);
  EXPECT_EQ(make(json)->encode("the-12"), (Ids{258, 500}));
  // An empty match is a cut.
  json["pre_tokenizer"]["pretokenizers"][0] = split("(?=2)", "Isolated", false);
  EXPECT_EQ(make(json)->encode("12"), (Ids{50, 51}));
  EXPECT_EQ(make(json)->encode("2\xc3\xa9"), (Ids{51, 264}));
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", "(?=2)"}};
  EXPECT_EQ(make(json)->encode("12"), Ids{500});
}

TEST(Bpe, AnExpressionMayNotTakeForever) {
  Json json = small_bpe();
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", "(a+)+$"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = make(json);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("baaa")), "baaa");
  EXPECT_THROW(tokenizer->encode(std::string(60, 'a') + "b"), Error);
}

TEST(Bpe, LongWordsTakeNoQuadraticTime) {
  const auto tokenizer = make(small_bpe());
  for (const int64_t length : {48, 49, 1000, 1'000'001}) {
    const Ids ids = tokenizer->encode(std::string(length, 'a'));
    EXPECT_EQ(static_cast<int64_t>(ids.size()), length / 2) << length;
    EXPECT_EQ(ids.back(), length % 2 == 0 ? 262 : 263);
  }
}

TEST(Bpe, LongWordsAreMergedAsShortOnes) {
  // Merges in any order, unlike trained ones: both ways of merging must follow the definition.
  std::mt19937 random(5);
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::vector<std::string> made = tokens;
  while (merges.size() < 60) {
    const std::string left = tokens[random() % tokens.size()],
                      right = tokens[random() % tokens.size()];
    if (std::find(made.begin(), made.end(), left + right) != made.end()) continue;
    made.push_back(left + right);
    merges.emplace_back(left, right);
    if (left.size() + right.size() < 6) tokens.push_back(left + right);
  }
  Json json = small_bpe(merges);
  Json& list = json["model"]["merges"];
  std::vector<Json> shuffled(list.begin(), list.end());
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  list = shuffled;
  const auto tokenizer = make(json);
  const Definition definition(json);
  for (int i = 0; i < 200; ++i) {
    std::string word;
    for (uint32_t length = 1 + random() % 120; length > 0; --length) {
      word += static_cast<char>('a' + random() % 3);
    }
    ASSERT_EQ(tokenizer->encode(word), definition.encode(word)) << word;
  }
}

TEST(Bpe, RefusesWhatItDoesNotKnow) {
  const Json good = small_bpe();
  ASSERT_EQ(tokenizer_error(good.dump()), "");
  const auto refused = [&](const char* where, const Json& value, const char* words) {
    Json json = good;
    json[Json::json_pointer(where)] = value;
    const std::string error = tokenizer_error(json.dump());
    EXPECT_NE(error.find(words), std::string::npos) << where << ": " << error;
  };
  refused("/extra", 1, "has the field \"extra\"");
  refused("/truncation", Json{{"max_length", 5}}, "truncation is");
  refused("/padding", Json::object(), "padding is");
  refused("/post_processor", Json{{"type", "TemplateProcessing"}}, "TemplateProcessing");
  refused("/decoder", Json{{"type", "Metaspace"}}, "Metaspace");
  refused("/decoder", nullptr, "decoder is null");
  refused("/normalizer", Json{{"type", "NFKC"}}, "NFKC");
  refused("/pre_tokenizer", nullptr, "pre_tokenizer is null");
  refused("/pre_tokenizer", Json{{"type", "Digits"}}, "Digits");
  refused("/pre_tokenizer/use_regex", 1, "use_regex is 1");
  refused("/pre_tokenizer", Json{{"type", "Sequence"}, {"pretokenizers", Json::array()}}, "empty");
  refused("/model/type", "Unigram", "Unigram");
  refused("/model/dropout", 0.1, "dropout is 0.1");
  refused("/model/byte_fallback", true, "byte_fallback is true");
  refused("/model/ignore_merges", true, "ignore_merges is true");
  refused("/model/end_of_word_suffix", "</w>", "end_of_word_suffix is");
  refused("/model/extra", 1, "has the field \"extra\"");
  refused("/model/vocab", Json::array(), "no vocab and merges");
  refused("/model/vocab/a", "x", "token \"a\" has the id \"x\"");
  refused("/model/vocab/a", -1, "token \"a\" has the id -1");
  refused("/model/vocab/a", 1e9, "token \"a\" has the id");
  refused("/model/vocab/a", 16'000'000, "about as many as the tokens");
  refused("/model/vocab/a", 17, "which another token has, too");
  refused("/model/vocab/\xe4\xbd\xa0", 400, "outside of the alphabet of bytes");
  refused("/model/vocab/ x", 400, "outside of the alphabet of bytes");
  refused("/model/merges/0", "x", "merge 0 is \"x\": expected two tokens");
  refused("/model/merges/0", "a b c", "expected two tokens");
  refused("/model/merges/0", Json{"a", 1}, "expected two tokens");
  refused("/model/merges/0", "q zz", "\"zz\" is not in vocab");
  refused("/model/merges/0", "q z", "\"qz\" is not in vocab");
  refused("/model/merges/1", good["model"]["merges"][0], "merges 0 and 1 are the same");
  refused("/added_tokens/0/special", false, "token 0 is not special");
  refused("/added_tokens/0/id", 300, "in vocab it has 0");
  refused("/added_tokens/1/id", 30, "which another token has, too");
  refused("/added_tokens/1/id", -1, "has the id -1");
  refused("/added_tokens/1/content", "", "has no content");
  refused("/added_tokens/1/content", "    ", "is there twice");
  refused("/added_tokens/1/content", std::string(2000, 'x'), "expected 1 to 1024");
  refused("/added_tokens/1/lstrip", true, "lstrip is true");
  Json json = good;
  json["model"]["vocab"].erase("a");
  EXPECT_NE(tokenizer_error(json.dump()).find("no token for the single byte 97"),
            std::string::npos);
  // A merge that makes a special token would let text do what nobody may.
  json = good;
  json["model"]["vocab"]["xy"] = 400;
  json["model"]["merges"].push_back("x y");
  ASSERT_EQ(tokenizer_error(json.dump()), "");
  json["added_tokens"].push_back({{"id", 400}, {"content", "xy"}, {"special", true}});
  EXPECT_NE(tokenizer_error(json.dump()).find("makes a special token"), std::string::npos);
  // Expressions.
  const auto expression = [&](const Json& split) {
    json = good;
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, good["decoder"]}}};
    return tokenizer_error(json.dump());
  };
  Json split = {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Isolated"}};
  EXPECT_EQ(expression(split), "");
  split["behavior"] = "MergedWithNext";
  EXPECT_NE(expression(split).find("MergedWithNext"), std::string::npos);
  split["behavior"] = "Isolated";
  split["pattern"] = {{"Regex", "(a"}};
  EXPECT_NE(expression(split).find("cannot be read at byte 2"), std::string::npos);
  split["pattern"] = {{"Regex", std::string(5000, '(') + std::string(5000, ')')}};
  EXPECT_NE(expression(split), "");
  EXPECT_NE(expression(good["decoder"]).find("before its end"), std::string::npos);
  // JSON.
  const std::string text = good.dump();
  std::string twice = text;
  twice.insert(twice.find("\"a\":"), "\"a\":98,");
  EXPECT_NE(tokenizer_error(twice).find("two entries called"), std::string::npos);
  EXPECT_NE(tokenizer_error("{\"a\":" + std::string(100'000, '[')).find("nested too deeply"),
            std::string::npos);
  EXPECT_NE(tokenizer_error("{\"model\": \"\xff\"}").find("not valid JSON"), std::string::npos);
}

TEST(Bpe, SurvivesTruncation) {
  const std::string text = small_bpe().dump();
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_NE(tokenizer_error(std::string_view(text).substr(0, length)), "") << length;
  }
}

TEST(Bpe, SurvivesMutation) {
  expect_tokenizer_mutations_are_survived(small_bpe().dump(), 5000, 6);
}

TEST(Bpe, SurvivesMoreMutation) {
  expect_tokenizer_mutations_are_survived(small_bpe().dump(1), 5000, 7);
}

TEST(Bpe, OneTokenizerServesSeveralThreads) {
  const auto tokenizer = make(small_bpe()), other = make(small_bpe({{"t", "h"}}));
  const std::string text = "the hell there a the aaaa";
  const Ids expected = tokenizer->encode(text), expected_other = other->encode(text);
  ASSERT_NE(expected, expected_other);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 200; ++turn) {
        EXPECT_EQ(tokenizer->encode(text), expected);
        EXPECT_EQ(other->encode(text), expected_other);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class NeoX : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::filesystem::exists(neox_file())) tokenizer_ = load_tokenizer(neox_file());
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }
  void SetUp() override {
    if (tokenizer_ == nullptr) GTEST_SKIP() << "no " << neox_file();
  }
  inline static std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(NeoX, GoldenIds) {
  EXPECT_EQ(tokenizer_->vocab_size(), 50277);
  EXPECT_EQ(tokenizer_->encode("\n"), Ids{187});
  EXPECT_EQ(tokenizer_->encode("\n\n"), Ids{535});
  for (int spaces = 2; spaces <= 24; ++spaces) {
    EXPECT_EQ(tokenizer_->encode(std::string(spaces, ' ')), Ids{50278 - spaces}) << spaces;
  }
  EXPECT_EQ(tokenizer_->encode(std::string(30, ' ')), (Ids{50254, 50272}));
  EXPECT_EQ(tokenizer_->encode(std::string(25, ' ')).size(), 2u);
  EXPECT_EQ(tokenizer_->bytes_of(0), "");
  EXPECT_EQ(tokenizer_->bytes_of(1), "");
  for (const char* text : {"<|endoftext|>", "<|padding|>"}) {
    const Ids ids = tokenizer_->encode(text);
    EXPECT_GT(ids.size(), 3u);
    EXPECT_GT(*std::min_element(ids.begin(), ids.end()), 1);
    EXPECT_EQ(tokenizer_->decode(ids), text);
  }
}

TEST_F(NeoX, EveryTokenIsItself) {
  const BpeTokenizer& bpe = dynamic_cast<const BpeTokenizer&>(*tokenizer_);
  EXPECT_EQ(bpe.merges(), 50009);
  int itself = 0;
  for (int32_t id = 2; id < tokenizer_->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer_->bytes_of(id);
    ASSERT_FALSE(bytes.empty());
    const Ids ids = tokenizer_->encode(bytes);
    ASSERT_EQ(tokenizer_->decode(ids), bytes) << id;
    if (ids == Ids{id}) ++itself;
  }
  // A few are parts of characters that normal form C composes, or that merging never reaches alone.
  EXPECT_GT(itself, 49'000);
}

TEST_F(NeoX, AgreesWithTheDefinition) {
  const Json json = Json::parse(std::ifstream(neox_file()));
  const Definition definition(json);
  const auto without_runs = [](std::string text) {
    for (size_t at = 0; (at = text.find("  ", at)) != std::string::npos;) text.erase(at, 1);
    return text;
  };
  std::mt19937 random(7);
  for (int i = 0; i < 100; ++i) {
    const std::string text = without_runs(to_nfc(random_text(random, 120)));
    ASSERT_EQ(tokenizer_->encode(text), definition.encode(text)) << text;
    ASSERT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text);
  }
  for (const char* name : {"enwiki2015.valid.txt", "tinyshakespeare.txt"}) {
    std::ifstream file(shared_folder() / "data" / name);
    std::string text(100'000, '\0');
    file.read(text.data(), 100'000);
    text.resize(valid_utf8_prefix(text));
    text = without_runs(to_nfc(text));
    ASSERT_EQ(tokenizer_->encode(text), definition.encode(text)) << name;
  }
}

TEST_F(NeoX, NormalFormsEncodeAlike) {
  const std::string composed = "Caf\xc3\xa9 \xe1\xbb\x99 \xea\xb0\x81 na\xc3\xafve",
                    apart =
                        "Cafe\xcc\x81 o\xcc\x82\xcc\xa3 \xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8 "
                        "nai\xcc\x88ve";
  EXPECT_EQ(tokenizer_->encode(apart), tokenizer_->encode(composed));
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(apart)), composed);
}

TEST_F(NeoX, BytesThatAreNoText) {
  for (int byte = 0x80; byte < 0xF5; ++byte) {
    if (byte == 0xC0 || byte == 0xC1) continue;
    const std::string text = "one " + std::string(1, static_cast<char>(byte)) + " two";
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text);
  }
  try {
    tokenizer_->encode("one \xff two");
    FAIL() << "byte 255 has a token";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("byte 255 at offset 4"), std::string::npos);
  }
}

}  // namespace
}  // namespace rookery
