// Training of a byte-level BPE: beside a slow one from the definition, documents, bounds, and that
// what comes out encodes.
#include "tokenizers/bpe_training.h"

#include <map>

#include "tokenizers/bpe.h"
#include "tokenizers/files_for_tests.h"

namespace rookery {
namespace {

using Strings = std::vector<std::string>;

// The merges of a text, as bytes, from the definition: counts every pair anew for each merge.
Strings merges_by_definition(std::string_view text, int64_t count) {
  std::map<Strings, int64_t> words;
  for (const char *at = text.data(), *end = at + text.size(); at != end;) {
    const char* next = gpt2_piece_end(at, end);
    Strings word;
    for (; at != next; ++at) word.emplace_back(1, *at);
    ++words[word];
  }
  Strings tokens;  // by id, for ties
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  std::map<std::string, int64_t> ids;
  for (const std::string& token : tokens) ids.emplace(token, ids.size());
  Strings merges;
  while (static_cast<int64_t>(merges.size()) < count) {
    std::map<std::pair<int64_t, int64_t>, int64_t> pairs;
    for (const auto& [word, times] : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (ids.count(word[i] + word[i + 1]) == 0) {
          pairs[{ids.at(word[i]), ids.at(word[i + 1])}] += times;
        }
      }
    }
    std::pair<int64_t, int64_t> best;
    int64_t most = 1;
    for (const auto& [pair, times] : pairs) {
      if (times > most) {
        most = times;
        best = pair;
      }
    }
    if (most < 2) break;
    const std::string left = tokens[best.first], right = tokens[best.second];
    merges.push_back(in_alphabet(left) + " " + in_alphabet(right));
    ids.emplace(left + right, tokens.size());
    tokens.push_back(left + right);
    std::map<Strings, int64_t> merged;
    for (const auto& [word, times] : words) {
      Strings made;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool here = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        made.push_back(here ? left + right : word[i]);
        if (here) ++i;
      }
      merged[made] += times;
    }
    words = std::move(merged);
  }
  return merges;
}

TrainedBpe train(const std::vector<std::string>& texts, BpeTrainingOptions options) {
  const TemporaryFolder folder;
  std::vector<std::filesystem::path> files;
  for (size_t i = 0; i < texts.size(); ++i) {
    files.push_back(save(folder, fmt::format("{}.txt", i), texts[i]));
  }
  return train_bpe(files, options);
}

Strings merges_of(const TrainedBpe& trained) {
  return nlohmann::json::parse(trained.definition)["model"]["merges"].get<Strings>();
}

std::string some_text(int words, uint32_t seed) {
  std::mt19937 random(seed);
  const Strings parts = {"the", "in", "g", "er", "aaa", "ab", "abab", "\xc3\xa9", "42", "'s"};
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += random() % 8 == 0 ? "\n" : " ";
    for (uint32_t n = 1 + random() % 4; n > 0; --n) text += parts[random() % parts.size()];
  }
  return text;
}

TEST(BpeTraining, IsThatOfTheDefinition) {
  for (uint32_t seed = 0; seed < 3; ++seed) {
    const std::string text = some_text(300, seed);
    const TrainedBpe trained = train({text}, {.vocabulary = 257 + 50});
    EXPECT_EQ(merges_of(trained), merges_by_definition(text, 50));
    EXPECT_EQ(merges_of(trained).size(), 50u);
    EXPECT_EQ(trained.vocabulary, 257 + static_cast<int64_t>(merges_of(trained).size()));
    EXPECT_EQ(trained.bytes, static_cast<int64_t>(text.size()));
    // Until nothing occurs twice.
    EXPECT_EQ(merges_of(train({text}, {.vocabulary = 5000})), merges_by_definition(text, 5000));
  }
}

TEST(BpeTraining, ThePrecedentIsSmallIds) {
  // Five pairs, each twice; the space is token 33.
  const TrainedBpe trained = train({"ba ba dc dc"}, {.vocabulary = 260});
  EXPECT_EQ(merges_of(trained), (Strings{"\xc4\xa0 d", "b a",
                                         "\xc4\xa0"
                                         "d c"}));
  EXPECT_EQ(train({"aaaa"}, {.vocabulary = 260}).vocabulary, 258);
}

// Runs of one letter are where the same bytes could come about in two ways.
TEST(BpeTraining, NoStringIsTwoTokens) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    std::string text;
    for (int word = 0; word < 40; ++word) {
      const std::string letters(1 + random() % 30, 'a');
      for (uint32_t times = 1 + random() % 6; times > 0; --times) {
        text += letters + (word % 3 == 0 ? "b" : "") + (word % 5 == 0 ? "\n" : " ");
      }
    }
    const TrainedBpe trained = train({text}, {.vocabulary = 400});
    const auto json = nlohmann::json::parse(trained.definition);
    std::map<std::string, int> strings;
    for (const auto& [token, id] : json["model"]["vocab"].items()) ++strings[token];
    EXPECT_EQ(static_cast<int64_t>(strings.size()), trained.vocabulary);
    std::map<std::string, int> made;
    for (std::string merge : merges_of(trained)) {
      merge.erase(merge.find(' '), 1);
      EXPECT_EQ(++made[merge], 1) << merge;
    }
    EXPECT_EQ(merges_of(trained), merges_by_definition(text, 400 - 257));
  }
}

TEST(BpeTraining, MakesATokenizer) {
  const std::string text = some_text(2000, 7);
  const TrainedBpe trained = train({text}, {.vocabulary = 400});
  const std::unique_ptr<Tokenizer> tokenizer = parse_tokenizer(trained.definition, "trained");
  EXPECT_EQ(tokenizer->name(), "bpe");
  EXPECT_EQ(tokenizer->vocab_size(), 400);
  EXPECT_EQ(tokenizer->bytes_of(0), "");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->bytes_of(byte + 1), std::string(1, static_cast<char>(byte)));
  }
  const std::vector<int32_t> ids = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_LT(ids.size(), text.size() / 2);
  std::mt19937 random(1);
  for (int i = 0; i < 100; ++i) {
    const std::string bytes = random_bytes(random, 100);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
  }
  // In normal form D, too.
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("e\xcc\x81")), "e\xcc\x81");
}

TEST(BpeTraining, MarksEndDocuments) {
  const std::string mark = "<|endoftext|>\n";
  const TrainedBpe marked = train({"xy\n" + mark + "xy\n" + mark + mark}, {.vocabulary = 300}),
                   apart = train({"xy\n", "xy\n"}, {.vocabulary = 300});
  EXPECT_EQ(marked.definition, apart.definition);
  EXPECT_EQ(merges_of(marked), (Strings{"x y"}));
  // Not a line of its own: text.
  EXPECT_GT(merges_of(train({"a <|endoftext|> a <|endoftext|> "}, {.vocabulary = 300})).size(), 5u);
}

TEST(BpeTraining, MemoryForWordsIsBounded) {
  std::string text;
  for (int i = 0; i < 60'000; ++i) text += fmt::format(" w{} often", i);
  const TrainedBpe trained = train({text}, {.vocabulary = 300, .word_memory = 1 << 20});
  EXPECT_GT(trained.dropped, 0);
  EXPECT_LT(trained.words, (1 << 20) / 64);
  EXPECT_EQ(parse_tokenizer(trained.definition, "trained")->encode(" often").size(), 1u);
  EXPECT_EQ(train({std::string(1'000'000, 'a') + " ab ab"}, {.vocabulary = 300}).words, 1);
}

TEST(BpeTraining, RefusesAndStops) {
  EXPECT_THROW(train({"text"}, {.vocabulary = 256}), Error);
  EXPECT_THROW(train({"text"}, {.vocabulary = int64_t{1} << 40}), Error);
  EXPECT_THROW(train({""}, {}), Error);
  EXPECT_THROW(train({"\xff\xff"}, {}), Error);
  EXPECT_THROW(train({}, {}), Error);
  EXPECT_THROW(train_bpe(std::vector<std::filesystem::path>{"/no/such/file"}, {}), Error);
  std::string phases;
  const auto progress = [&](std::string_view phase, int64_t done, int64_t total) {
    EXPECT_LE(done, total);
    phases += phase.substr(0, 1);
    return phases.size() < 3;
  };
  EXPECT_THROW(train({some_text(500, 1)}, {.vocabulary = 300, .progress = progress}), Error);
  EXPECT_EQ(phases, "rmm");
}

}  // namespace
}  // namespace rookery
