// What of the data a run learns from, what it holds out, and what a target stands for.
#include "training/run_data.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "data/binidx.h"
#include "data/tokenizer_for_tests.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

class RunDataTest : public ::testing::Test {
 protected:
  // The data of 101 bytes, from which the last 40 are held out.
  RunData open(std::unique_ptr<Tokenizer> tokenizer) {
    std::string text;
    for (int i = 0; i < 101; ++i) text += static_cast<char>('!' + i % 90);
    const std::string file = save(folder_, "text", text).string();
    return RunData({.files = {file}}, std::move(tokenizer), pool_);
  }
  TrainOptions options() const {
    TrainOptions options;
    options.context = 9;
    options.batch = 2;
    options.validation_fraction = 40.5 / 101;
    return options;
  }

  TemporaryFolder folder_;
  ThreadPool pool_{2};
};

// The end of a document counts as a byte, what is masked as nothing, and so does an id that only
// the model has, but for its place.
TEST_F(RunDataTest, BytesOfATargetWithDocumentEnds) {
  const RunData data = open(std::make_unique<SpaceTokenizer>());
  const int32_t word = 344 + 'a';  // " a"
  const auto bytes = [&](const std::vector<int32_t>& targets) {
    const TrainingBatch batch{std::vector<int32_t>(targets.size()), targets, {}};
    return data.bytes_per_target(std::vector{batch, batch});
  };
  EXPECT_EQ(bytes({word, 0, -1}), (2 + 1) / 2.0);
  EXPECT_EQ(bytes({word, word, 5}), (2 + 2 + 1) / 3.0);
  EXPECT_EQ(bytes({word, 600, -1}), (2 + 1) / 2.0);
  EXPECT_EQ(bytes({-1, -1}), 0);
}

// What is held out is not learned from, and is what validation reads: the first windows of it, each
// token once, with the next one as its target.
TEST_F(RunDataTest, TheEndIsHeldOut) {
  const RunData data = open(std::make_unique<ByteTokenizer>());
  const TokenSpan tokens = data.training().tokens;
  const Loader loader = data.loader(options(), 256);
  EXPECT_EQ(loader.windows_per_epoch(), (61 - 1) / 9 - 1);
  for (int64_t sample = 0; sample < 100; ++sample) {
    EXPECT_LE(loader.start_of(sample) + 9 + 1, 61);
  }
  const std::vector<TrainingBatch> all = data.validation(options(), 256, 100);
  ASSERT_EQ(all.size(), 2u);
  int64_t at = 61;
  for (const TrainingBatch& batch : all) {
    EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 9, 18}));
    for (size_t i = 0; i < batch.tokens.size(); ++i, ++at) {
      EXPECT_EQ(batch.tokens[i], tokens[at]);
      EXPECT_EQ(batch.targets[i], tokens[at + 1]);
    }
  }
  EXPECT_EQ(at, 61 + 4 * 9);
  // Fewer windows are spread evenly.
  const std::vector<TrainingBatch> some = data.validation(options(), 256, 2);
  ASSERT_EQ(some.size(), 1u);
  EXPECT_EQ(some[0].tokens[0], tokens[61]);
  EXPECT_EQ(some[0].tokens[9], tokens[61 + 18]);
}

// The mask of what is held out is that part of the mask.
TEST_F(RunDataTest, TheMaskIsHeldOutWithItsTokens) {
  const std::filesystem::path name = folder_.path() / "data";
  BinIdxWriter writer(name, 256, true);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 100; ++i) {
    writer.append(std::vector<int32_t>{1 + i}, i % 3 != 0);
  }
  writer.end_document(false);
  writer.commit("");
  std::filesystem::remove(about_of(name));
  const RunData data({.files = {name.string()}}, std::make_unique<ByteTokenizer>(), pool_);
  const auto expect_masked = [](const std::vector<TrainingBatch>& batches) {
    for (const TrainingBatch& batch : batches) {
      for (size_t i = 0; i < batch.tokens.size(); ++i) {
        const int32_t next = batch.tokens[i] + 1;  // token 1 + i is learned unless 3 divides i
        EXPECT_EQ(batch.targets[i], (next - 1) % 3 == 0 ? -1 : next) << batch.tokens[i];
      }
    }
  };
  expect_masked(data.validation(options(), 256, 3));
  const Loader loader = data.loader(options(), 256);
  std::vector<TrainingBatch> learned(1);
  for (int64_t sample = 0; sample < 20; ++sample) loader.append(sample, learned[0]);
  expect_masked(learned);
}

}  // namespace
}  // namespace rookery
