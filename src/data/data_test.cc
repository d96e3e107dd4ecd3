// Text in memory, prepared data as training data, and the windows of both.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "data/loader.h"
#include "data/magic_prime.h"
#include "data/text_data.h"
#include "data/tokenizer_for_tests.h"
#include "data/training_data.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

class TextFiles : public ::testing::Test {
 protected:
  TextFiles()
      : folder_(std::filesystem::temp_directory_path() /
                ("rookery-data-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~TextFiles() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  static TextData read_as_bytes(const std::vector<std::filesystem::path>& files) {
    ThreadPool pool(2);
    return read_text(files, ByteTokenizer(), pool);
  }
  static std::string read(const std::vector<std::filesystem::path>& files) {
    const TextData data = read_as_bytes(files);
    const TokenSpan tokens = data.tokens();
    EXPECT_EQ(tokens.type(), TokenType::kU8);
    EXPECT_EQ(data.bytes, tokens.size());
    std::string text;
    for (int64_t i = 0; i < tokens.size(); ++i) text += static_cast<char>(tokens[i]);
    return text;
  }
  std::filesystem::path folder_;
};

TEST_F(TextFiles, MarksBecomeZeros) {
  using namespace std::string_literals;
  EXPECT_EQ(read({write("a", "one\n<|endoftext|>\ntwo\n<|endoftext|>")}), "one\n\0two\n\0"s);
  EXPECT_EQ(read({write("b", "no <|endoftext|> here\n")}), "no <|endoftext|> here\n"s);
  EXPECT_EQ(read({write("c", "<|endoftext|>\nx <|endoftext|>\n<|endoftext|>\nz")}),
            "\0x <|endoftext|>\n\0z"s);
  EXPECT_EQ(read({write("d", "one"), write("e", "two\n")}), "one\0two\n\0"s);
  EXPECT_TRUE(read_as_bytes({write("a", "x\n<|endoftext|>\ny")}).has_documents);
  EXPECT_FALSE(read_as_bytes({write("b", "xyz")}).has_documents);
}

TEST_F(TextFiles, RefusesWhatIsNoText) {
  using namespace std::string_literals;
  EXPECT_THROW(read({write("zero", "a\0b"s)}), Error);
  EXPECT_THROW(read({write("one", "a")}), Error);
  EXPECT_THROW(read({folder_ / "missing"}), Error);
  EXPECT_THROW(read({folder_}), Error);
  EXPECT_THROW(read({}), Error);
}

TEST_F(TextFiles, AnyTokenizerInTheSmallestType) {
  std::string text;
  for (int i = 0; i < 250000; ++i) text += i % 9 == 8 ? "end\nof" : " word";
  text += "\n<|endoftext|>\nlast";
  ASSERT_GT(text.size(), static_cast<size_t>(kLongestPiece));  // so it is read in pieces
  const std::filesystem::path path = write("long.txt", text);
  for (const int64_t vocabulary : {600, 65536, 65537}) {
    const SpaceTokenizer tokenizer(vocabulary);
    std::vector<int32_t> expected =
        tokenizer.encode(std::string_view(text).substr(0, text.find("<|")));
    expected.push_back(0);
    tokenizer.encode_to("last", expected);
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      const TextData data = read_text(std::vector{path}, tokenizer, pool);
      const TokenSpan tokens = data.tokens();
      EXPECT_EQ(tokens.type(), vocabulary <= 65536 ? TokenType::kU16 : TokenType::kI32);
      ASSERT_EQ(tokens.size(), static_cast<int64_t>(expected.size()));
      for (int64_t i = 0; i < tokens.size(); ++i) ASSERT_EQ(tokens[i], expected[i]) << i;
      EXPECT_TRUE(data.has_documents);
      EXPECT_EQ(data.bytes, static_cast<int64_t>(text.size()) - 13);
    }
  }
}

TEST_F(TextFiles, LinesOfJsonAreNoText) {
  EXPECT_THROW(read_as_bytes({write("a.jsonl", "{\"text\": \"x\"}")}), Error);
}

class Prepared : public TextFiles {
 protected:
  // Tokens 1 .. count as prepared data.
  std::filesystem::path make(int64_t count, bool masked) {
    const std::filesystem::path name = folder_ / "data";
    BinIdxWriter writer(name, 60000, masked);
    std::vector<int32_t> ids;
    for (int64_t i = 1; i < count; ++i) ids.push_back(static_cast<int32_t>(1 + i % 59999));
    writer.append(ids, true);
    writer.end_document(false);
    writer.commit("");
    std::filesystem::remove(about_of(name));
    return name;
  }
  TrainingData open(const std::filesystem::path& path) {
    return open_training_data(std::vector{path}, nullptr, pool_);
  }
  ThreadPool pool_{2};
};

TEST_F(Prepared, IsMappedWithItsMask) {
  const std::filesystem::path name = make(1000, true);
  const TrainingData data = open(name.string() + ".idx");
  EXPECT_EQ(data.tokens.size(), 1000);
  EXPECT_EQ(data.tokens.type(), TokenType::kU16);
  EXPECT_EQ(data.mask.size(), 1000u);
  EXPECT_EQ(data.mask[998], 1);
  EXPECT_EQ(data.mask[999], 0);
  EXPECT_FALSE(data.has_documents);
  EXPECT_EQ(data.bytes_per_token, 0);
  EXPECT_TRUE(is_prepared(std::vector{name}));
  EXPECT_THROW(is_prepared(std::vector{write("a.txt", "x"), name}), Error);
  EXPECT_FALSE(is_prepared(std::vector{write("a.txt", "x"), write("b.txt", "x")}));
  EXPECT_FALSE(is_prepared(std::vector{folder_ / "missing"}));
}

TEST_F(Prepared, TheHashKnowsTokensAndMask) {
  const uint64_t plain = open(make(1000, false)).hash, masked = open(make(1000, true)).hash;
  EXPECT_NE(plain, masked);
  EXPECT_EQ(open(make(1000, true)).hash, masked);
  const std::filesystem::path name = make(1000, true);
  std::fstream(mask_of(name), std::ios::in | std::ios::out | std::ios::binary).seekp(500).put(0);
  EXPECT_NE(open(name).hash, masked);
  EXPECT_NE(open(make(999, true)).hash, masked);
  // Every byte counts in large data, too.
  constexpr int64_t kLarge = 8500000;
  const uint64_t large = open(make(kLarge, false)).hash;
  for (const int64_t at : {kLarge / 3, 2 * kLarge - 2}) {
    EXPECT_EQ(open(make(kLarge, false)).hash, large);
    std::fstream(bin_of(name), std::ios::in | std::ios::out | std::ios::binary).seekp(at).put(7);
    EXPECT_NE(open(name).hash, large);
  }
}

TEST_F(Prepared, TheHashDoesNotDependOnThreads) {
  const std::filesystem::path prepared = make(20000, true), text = write("a.txt", "some text");
  ThreadPool one(1), three(3);
  EXPECT_EQ(open_training_data(std::vector{prepared}, nullptr, one).hash,
            open_training_data(std::vector{prepared}, nullptr, three).hash);
  const SpaceTokenizer words(600), more(65537);  // ids of 2 and of 4 bytes
  const uint64_t hash = open_training_data(std::vector{text}, &words, one).hash;
  EXPECT_EQ(open_training_data(std::vector{text}, &words, three).hash, hash);
  EXPECT_NE(open_training_data(std::vector{text}, &more, one).hash, hash);
  EXPECT_NE(open_training_data(std::vector{write("a.txt", "some texts")}, &words, one).hash, hash);
}

TEST_F(Prepared, IdsOutsideTheVocabularyAreFound) {
  const auto always = [](int64_t) { return true; };
  const TrainingData data = open(make(5000000, false));
  EXPECT_EQ(first_outside(data.tokens, 60000, always), -1);
  EXPECT_EQ(first_outside(data.tokens, 65536, [](int64_t) { return false; }), -1);
  EXPECT_EQ(first_outside(data.tokens, 59998, always), 59996);
  int calls = 0;
  EXPECT_EQ(first_outside(data.tokens, 60000, [&](int64_t) { return ++calls < 2; }), -1);
  EXPECT_EQ(calls, 2);
  const std::vector<int32_t> negative{5, 6, -7};
  EXPECT_EQ(first_outside(negative, 60000, always), 2);
}

TEST(Loader, AnEpochVisitsEveryWindowOnce) {
  std::vector<uint8_t> tokens(1000, 1);
  const Loader loader(tokens, {.context = 30, .seed = 4});
  const int64_t windows = loader.windows_per_epoch();
  EXPECT_EQ(windows, 999 / 30 - 1);
  std::vector<int64_t> orders[2];
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::set<int64_t> starts;
    for (int64_t i = 0; i < windows; ++i) {
      const int64_t start = loader.start_of(epoch * windows + i);
      EXPECT_GE(start, 0);
      EXPECT_LE(start + 31, 1000);
      starts.insert(start);
      orders[epoch].push_back(start - loader.start_of(epoch * windows));
    }
    EXPECT_EQ(static_cast<int64_t>(starts.size()), windows);
    EXPECT_EQ(*starts.rbegin() - *starts.begin(), 30 * (windows - 1));  // no overlap
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_FALSE(std::is_sorted(orders[0].begin(), orders[0].end()));
}

// The numbers of another program that follows the description: Philox, a Feistel network, an offset
// below the context. A resumed run needs this order as it was.
TEST(Loader, TheShuffledOrderStays) {
  const std::vector<uint8_t> tokens(1000, 1);
  const Loader loader(tokens, {.context = 30, .seed = 4});
  for (const auto& [sample, start] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 943}, {1, 883}, {2, 43}, {31, 163}, {32, 765}, {33, 855}, {1000, 719}}) {
    EXPECT_EQ(loader.start_of(sample), start) << sample;
  }
  const Loader other(tokens, {.context = 30, .seed = 5});
  EXPECT_EQ(other.start_of(0), 930);
  EXPECT_EQ(other.start_of(1), 810);
}

TEST(Loader, EveryEpochBeginsElsewhere) {
  const std::vector<uint8_t> tokens(1000, 1);
  const Loader loader(tokens, {.context = 30, .seed = 4});
  std::set<int64_t> offsets, firsts;
  for (int64_t epoch = 0; epoch < 200; ++epoch) {
    std::set<int64_t> starts;
    for (int64_t i = 0; i < 32; ++i) starts.insert(loader.start_of(epoch * 32 + i));
    offsets.insert(*starts.begin());
    firsts.insert(loader.start_of(epoch * 32) / 30);
  }
  // From 0 up to a whole window, and any window may be the first.
  EXPECT_EQ(*offsets.begin(), 0);
  EXPECT_EQ(*offsets.rbegin(), 30);
  EXPECT_GT(offsets.size(), 25u);
  EXPECT_GT(firsts.size(), 25u);
}

// A mask says which tokens are learned as targets, not which are read.
TEST(Loader, TheMaskBelongsToTheTarget) {
  const std::vector<uint8_t> tokens{5, 6, 0, 7, 8}, mask{0, 1, 0, 1, 1};
  TrainingBatch batch;
  Loader(tokens, {.context = 2, .reset_documents = true}, mask).append_at(2, batch);
  Loader(tokens, {.context = 2, .reset_documents = true}, mask).append_at(0, batch);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{0, 7, 5, 6}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{7, 8, 6, -1}));
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 2, 4}));  // a window's first token cuts nothing
}

TEST(Loader, TargetsAreTheNextTokensAndDocumentsAreCut) {
  const std::vector<uint8_t> tokens{5, 6, 0, 7, 8, 0, 0, 9, 1};
  for (const bool reset : {false, true}) {
    const Loader loader(tokens, {.context = 8, .seed = 1, .reset_documents = reset});
    TrainingBatch batch;
    loader.append(0, batch);
    EXPECT_EQ(batch.tokens, (std::vector<int32_t>{5, 6, 0, 7, 8, 0, 0, 9}));
    EXPECT_EQ(batch.targets, (std::vector<int32_t>{6, 0, 7, 8, 0, 0, 9, 1}));
    EXPECT_EQ(batch.offsets,
              reset ? (std::vector<int64_t>{0, 2, 5, 6, 8}) : (std::vector<int64_t>{0, 8}));
  }
}

TEST(Loader, ReadsEveryTypeAndMask) {
  const std::vector<uint16_t> shorts{5, 600, 0, 7, 8, 65535};
  const std::vector<int32_t> ints(shorts.begin(), shorts.end());
  const std::vector<int64_t> longs(shorts.begin(), shorts.end());
  // A file's mapping need not be aligned.
  std::vector<std::byte> odd(1 + 6 * 8);
  std::memcpy(odd.data() + 1, longs.data(), 6 * 8);
  const std::vector<uint8_t> mask{0, 1, 0, 1, 0, 1};
  for (const TokenSpan tokens :
       {TokenSpan(shorts), TokenSpan(ints), TokenSpan(odd.data() + 1, 6, TokenType::kI64)}) {
    TrainingBatch batch;
    Loader(tokens, {.context = 5}).append(0, batch);
    EXPECT_EQ(batch.tokens, (std::vector<int32_t>{5, 600, 0, 7, 8}));
    EXPECT_EQ(batch.targets, (std::vector<int32_t>{600, 0, 7, 8, 65535}));
    Loader(tokens, {.context = 5}, mask).append(0, batch);
    EXPECT_EQ(std::vector<int32_t>(batch.targets.begin() + 5, batch.targets.end()),
              (std::vector<int32_t>{600, -1, 7, -1, 65535}));
    EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 5, 10}));
  }
}

TEST(Loader, RefusesForeignIdsAndMasks) {
  const std::vector<int32_t> tokens{5, 6, 300, -1, 7, 8};
  TrainingBatch batch;
  const auto error = [&](int64_t start, const std::vector<uint8_t>& mask) -> std::string {
    try {
      Loader(tokens, {.context = 1, .vocabulary = 256}, mask).append_at(start, batch);
    } catch (const Error& problem) {
      return problem.what();
    }
    return "";
  };
  EXPECT_EQ(error(0, {}), "");
  EXPECT_NE(error(1, {}).find("token 2 of the data is 300"), std::string::npos) << error(1, {});
  EXPECT_NE(error(3, {}).find("token 3 of the data is -1"), std::string::npos);
  EXPECT_NE(error(0, {1, 2, 0, 0, 0, 0}).find("expected 0 or 1"), std::string::npos);
  EXPECT_NE(error(0, {1}).find("the mask has 1 bytes"), std::string::npos);
}

TEST(Loader, TheMagicPrimesOrderIsThatOfThePublicCode) {
  std::vector<uint16_t> tokens(5 * 120 + 3);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint16_t>(i);
  const LoaderOptions options{.context = 5, .seed = 9, .order = WindowOrder::kMagicPrime};
  const Loader loader(tokens, options);
  EXPECT_EQ(loader.magic_prime(), 113);
  EXPECT_EQ(loader.windows_per_epoch(), 113);
  // By the formula as it stands: k = int(113 x 0.618..) = 69.
  for (const int64_t sample : {0, 1, 2, 50, 112, 113, 40320, 999999}) {
    const int64_t n = (sample + 1) % 113;
    TrainingBatch batch;
    loader.append(sample, batch);
    const int64_t start = 69 * (n * n * n % 113) % 113 * 5;
    EXPECT_EQ(batch.tokens.front(), start);
    EXPECT_EQ(batch.targets.back(), start + 5);
  }
  LoaderOptions other = options;
  other.seed = 10;  // no part of this order
  EXPECT_EQ(Loader(tokens, other).start_of(7), loader.start_of(7));
  other.magic_prime = 113;
  EXPECT_EQ(Loader(tokens, other).start_of(7), loader.start_of(7));
  other.magic_prime = 109;
  EXPECT_THROW(Loader(tokens, other), Error);  // 1 mod 3
  const std::vector<uint8_t> few(11, 1);
  EXPECT_THROW(Loader(few, options), Error);
  EXPECT_EQ(Loader(tokens, {.context = 5}).magic_prime(), 0);
}

TEST(Loader, NamesOfOrders) {
  for (const WindowOrder order : {WindowOrder::kShuffled, WindowOrder::kMagicPrime}) {
    EXPECT_EQ(parse_window_order(name_of(order)), order);
  }
  EXPECT_THROW(parse_window_order("random"), Error);
}

TEST(Loader, RefusesTooLittleText) {
  const std::vector<uint8_t> tokens(30, 1);
  EXPECT_THROW(Loader(tokens, {.context = 30}), Error);
  EXPECT_THROW(Loader(tokens, {.context = 0}), Error);
  EXPECT_EQ(Loader(tokens, {.context = 29}).windows_per_epoch(), 1);
}

}  // namespace
}  // namespace rookery
