#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "core/error.h"
#include "data/loader.h"
#include "data/text_data.h"

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
  static std::string read(std::initializer_list<std::filesystem::path> files) {
    const TextData data = read_text(std::vector(files));
    return {data.tokens.begin(), data.tokens.end()};
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
  EXPECT_TRUE(read_text(std::vector{write("a", "x\n<|endoftext|>\ny")}).has_documents);
  EXPECT_FALSE(read_text(std::vector{write("b", "xyz")}).has_documents);
}

TEST_F(TextFiles, RefusesWhatIsNoText) {
  using namespace std::string_literals;
  EXPECT_THROW(read({write("zero", "a\0b"s)}), Error);
  EXPECT_THROW(read({write("one", "a")}), Error);
  EXPECT_THROW(read({folder_ / "missing"}), Error);
  EXPECT_THROW(read({folder_}), Error);
  EXPECT_THROW(read({}), Error);
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

TEST(Loader, RefusesTooLittleText) {
  const std::vector<uint8_t> tokens(30, 1);
  EXPECT_THROW(Loader(tokens, {.context = 30}), Error);
  EXPECT_THROW(Loader(tokens, {.context = 0}), Error);
  EXPECT_EQ(Loader(tokens, {.context = 29}).windows_per_epoch(), 1);
}

}  // namespace
}  // namespace rookery
