// What prepared data holds, counted by hand.
#include "data/summary.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checking/files_for_tests.h"
#include "core/error.h"
#include "data/binidx.h"
#include "data/magic_prime.h"
#include "data/prepare.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

bool go_on(int64_t) { return true; }

class Summary : public ::testing::Test {
 protected:
  // Documents of 3, 1 and 5 bytes, of which each has its end besides.
  PreparedData prepared(bool masked = false) {
    std::string lines = R"({"text":"abc"})"
                        "\n"
                        R"({"text":"d"})"
                        "\n"
                        R"({"text":"vwxyz"})"
                        "\n";
    if (masked) {
      lines += R"({"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]})"
               "\n";
    }
    const fs::path input = save(folder_, "text.jsonl", lines);
    prepare(std::vector<fs::path>{input}, name_, ByteTokenizer(), {}, pool_,
            [](const PrepareProgress&) { return true; });
    return PreparedData(name_);
  }

  ThreadPool pool_{1};
  TemporaryFolder folder_;
  fs::path name_ = folder_.path() / "data";
};

TEST_F(Summary, CountsDocumentsLengthsAndIds) {
  const PreparedData data = prepared();
  const PreparedSummary summary = summarise(data, go_on).value();
  EXPECT_EQ(summary.documents, 3);
  EXPECT_EQ(summary.sequences, data.tokens.sequences());
  EXPECT_EQ(summary.tokens, 3 + 1 + 5 + 3);
  EXPECT_EQ(summary.shortest, 2);
  EXPECT_EQ(summary.median, 4);
  EXPECT_EQ(summary.longest, 6);
  EXPECT_EQ(summary.least_id, 0);
  EXPECT_EQ(summary.largest_id, 'z');
  EXPECT_EQ(summary.zeros, 3);
  EXPECT_FALSE(summary.has_mask);
  EXPECT_EQ(summary.learned, 12);
  EXPECT_EQ(text_of_beginning(data.tokens.tokens(), 5, ByteTokenizer()), "abc<|endoftext|>d");
  EXPECT_EQ(text_of_beginning(data.tokens.tokens(), 0, ByteTokenizer()), "");
  EXPECT_FALSE(summarise(data, [](int64_t) { return false; }).has_value());
}

TEST_F(Summary, CountsWhatAMaskLeaves) {
  {
    const PreparedData data = prepared(true);
    const PreparedSummary summary = summarise(data, go_on).value();
    EXPECT_TRUE(summary.has_mask);
    int64_t learned = 0;
    for (const uint8_t one : data.mask()) learned += one;
    EXPECT_EQ(summary.learned, learned);
    EXPECT_LT(summary.learned, summary.tokens);
    EXPECT_GT(summary.learned, 12);
  }
  std::fstream(mask_of(name_), std::ios::in | std::ios::out | std::ios::binary).seekp(2).put(7);
  EXPECT_THROW(summarise(PreparedData(name_), go_on), Error);
}

TEST_F(Summary, RefusesIdsOfAnotherTokenizer) {
  const uint16_t ids[] = {5, 300, 0};
  EXPECT_THROW(text_of_beginning({ids, 3, TokenType::kU16}, 3, ByteTokenizer()), Error);
  EXPECT_EQ(text_of_beginning({ids, 3, TokenType::kU16}, 1, ByteTokenizer()), "\x05");
}

TEST_F(Summary, EpochsHaveWindowsAndPrimes) {
  const EpochSummary epoch = summarise_epoch(10000, 32);
  EXPECT_EQ(epoch.context, 32);
  // A window starts anywhere in the first 32 tokens, and its last target is one token further.
  EXPECT_EQ(epoch.windows, (10000 - 31 - 1) / 32);
  ASSERT_TRUE(epoch.magic_primes.contains(32));
  const int64_t prime = epoch.magic_primes.at(32);
  EXPECT_EQ(prime, magic_prime(10000, 32));
  EXPECT_DOUBLE_EQ(epoch.mini_epochs, static_cast<double>(prime) / 40320);
  EXPECT_EQ(epoch.magic_primes.contains(512), magic_prime(10000, 512) > 0);
  EXPECT_FALSE(epoch.magic_primes.contains(8192));
  const EpochSummary none = summarise_epoch(32, 32);
  EXPECT_EQ(none.windows, 0);
  EXPECT_TRUE(none.magic_primes.empty());
  EXPECT_EQ(none.mini_epochs, 0);
}

}  // namespace
}  // namespace rookery
