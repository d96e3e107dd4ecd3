// The layout of a line at every width, and how often something is shown.
#include "reporting/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace rookery {
namespace {

TEST(ProgressLine, Layout) {
  EXPECT_EQ(progress_line("train", 250, 1000, "loss 2.31", 185, 120),
            "train   25%  [=======                       ]  250/1000  loss 2.31  3m05s left");
  EXPECT_EQ(progress_line("train", 250, 1000, "loss 2.31", 185, 60),
            "train   25%  [===         ]  250/1000  loss 2.31  3m05s left");
  EXPECT_EQ(progress_line("train", 250, 1000, "loss 2.31", 185, 50),
            "train   25%  250/1000  loss 2.31  3m05s left");
  EXPECT_EQ(progress_line("train", 250, 1000, "loss 2.31", 185, 20), "train   25%  250/100");
  EXPECT_EQ(progress_line("read", 250, 0, "x", 10, 80), "read  250  x");
  EXPECT_EQ(progress_line("train", 999, 1000, "", -1, 40),
            "train   99%  [============== ]  999/1000");
  EXPECT_EQ(progress_line("train", 1000, 1000, "", -1, 30), "train  100%  1000/1000");
  EXPECT_EQ(progress_line("", 5, 0, "\u00e9\u00e9\u00e9", -1, 5), "5  \u00e9\u00e9");
  EXPECT_EQ(progress_line("train", 1, 2, "", -1, 0), "");
}

TEST(ProgressLine, NeverWiderThanAsked) {
  for (int width = 0; width < 150; ++width) {
    const std::string line =
        progress_line("quantize", 123, 45678, "loss 2.310  1.3M tok/s", 99, width);
    EXPECT_LE(static_cast<int>(line.size()), width);
  }
}

class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { out = open_memstream(&text, &size); }
  void TearDown() override {
    std::fclose(out);
    std::free(text);
  }
  ProgressOptions options(bool terminal) {
    ProgressOptions result;
    result.title = "train";
    result.total = 100;
    result.terminal = terminal;
    result.width = 60;
    result.clock = [this] { return now; };
    return result;
  }
  std::string shown() {
    std::fflush(out);
    return {text, size};
  }

  std::FILE* out = nullptr;
  char* text = nullptr;
  size_t size = 0;
  double now = 1000;
};

TEST_F(ProgressTest, TerminalShowsTenTimesASecond) {
  {
    Progress progress(out, options(true));
    for (int64_t done = 1; done <= 100; ++done) {
      now += 0.01;
      progress.update(done, "loss 1");
    }
    const std::string live = shown();
    const auto draws = std::count(live.begin(), live.end(), '\r');
    EXPECT_GE(draws, 9);
    EXPECT_LE(draws, 11);
    EXPECT_EQ(live.find('\n'), std::string::npos);
    EXPECT_NE(live.find("\x1b[K"), std::string::npos);
    progress.finish();
    EXPECT_NE(shown().find("100%"), std::string::npos);
    EXPECT_NE(shown().find("100/100  loss 1  in 1.0s\x1b[K\n"), std::string::npos) << shown();
    const std::string before = shown();
    progress.update(5);
    progress.finish();
    EXPECT_EQ(shown(), before);
  }
  EXPECT_EQ(shown().back(), '\n');
}

TEST_F(ProgressTest, TimeLeftCountsOnlyThisRun) {
  ProgressOptions resumed = options(false);
  resumed.start = 50;
  Progress progress(out, resumed);
  now += 40;
  progress.update(60);  // ten in 40 s, forty to go
  EXPECT_NE(shown().find("2m40s left"), std::string::npos) << shown();
}

TEST_F(ProgressTest, ElsewhereOneLinePerInterval) {
  Progress progress(out, options(false));
  for (int64_t done = 1; done <= 100; ++done) {
    now += 1;
    progress.update(done);
  }
  progress.finish();
  const std::string lines = shown();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 4) << lines;
  EXPECT_EQ(lines.find('\r'), std::string::npos);
  EXPECT_EQ(lines.find('\x1b'), std::string::npos);
}

TEST_F(ProgressTest, MessagesStandAboveTheBar) {
  {
    Progress progress(out, options(true));
    progress.message("before");
    progress.update(1);
    progress.message("saved");
  }
  EXPECT_EQ(shown().find("before\n\r"), 0u) << shown();
  EXPECT_NE(shown().find("\r\x1b[Ksaved\n\rtrain"), std::string::npos) << shown();
  EXPECT_EQ(shown().back(), '\n') << "the bar was left without a line end";
}

TEST_F(ProgressTest, NoTerminalNoBar) {
  ProgressOptions plain = options(false);
  plain.terminal.reset();  // a memory stream is none
  plain.plain_interval = 0;
  Progress progress(out, plain);
  progress.update(1);
  EXPECT_EQ(shown().find('\r'), std::string::npos);
}

}  // namespace
}  // namespace rookery
