#include "inference/session.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checking/operator_test.h"

namespace rookery {
namespace {

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() {
    for (int i = 0; i < 1300; ++i) tokens_.push_back((i * i + 5 * i) % 31);
  }
  ThreadPool pool_{2};
  Model model_ = Model::initialised(make_config("4", 2, 16, 31), {.scheme = "random"}, pool_);
  std::vector<int32_t> tokens_;
};

TEST_F(SessionTest, PromptsLongerThanAChunkAndForks) {
  Session whole(model_, pool_), parts(model_, pool_);
  const std::vector<float> all = whole.feed_all(tokens_);
  ASSERT_EQ(all.size(), tokens_.size() * 31);
  const std::span<const int32_t> text(tokens_);
  parts.feed(text.first(600));
  const State fork = parts.state();  // a copy
  for (int round = 0; round < 2; ++round) {
    const auto logits = parts.feed(text.subspan(600));
    EXPECT_EQ(parts.position(), 1300);
    for (int i = 0; i < 31; ++i) EXPECT_NEAR(logits[i], all[1299 * 31 + i], 1e-5);
    parts.set_state(fork, 600);
  }
  parts.reset();
  Session fresh(model_, pool_);
  EXPECT_EQ(parts.feed(3)[0], fresh.feed(3)[0]);
}

TEST_F(SessionTest, EveryOperatorOfATokenAgreesOnAGpu) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Model there = model_.on_gpu(type);
    Session session(there, pool_);
    Checker checker;
    session.context().checker = &checker;
    for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(session.feed(tokens_[i])) << name_of(type);
    EXPECT_NO_THROW(session.feed(std::span(tokens_).subspan(3, 5)));
    EXPECT_GT(checker.checked, 80);
  }
}

TEST_F(SessionTest, AGpuGivesTheSameLogits) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Model there = model_.on_gpu(type);
    const double tolerance = type == DType::kF32 ? 2e-5 : 0.1;
    Session here(model_, pool_), at_once(there, pool_), one_by_one(there, pool_);
    const std::vector<float> expected = here.feed_all(tokens_), all = at_once.feed_all(tokens_);
    for (size_t i = 0; i < all.size(); ++i) ASSERT_NEAR(all[i], expected[i], tolerance) << i;
    // From the third token on a recorded graph; in between a prompt, and a state put back.
    for (int i = 0; i < 40; ++i) one_by_one.feed(tokens_[i]);
    const State fork = one_by_one.state();
    for (int round = 0; round < 2; ++round) {
      one_by_one.feed(std::span(tokens_).subspan(40, 500));
      for (int i = 540; i < 600; ++i) {
        const auto logits = one_by_one.feed(tokens_[i]);
        for (int j = 0; j < 31; ++j) ASSERT_NEAR(logits[j], expected[i * 31 + j], tolerance) << i;
      }
      one_by_one.set_state(fork, 40);
    }
    Session exact(there, pool_, true), pieces(there, pool_, true);
    const std::span<const int32_t> text(tokens_);
    pieces.feed(text.first(77));
    pieces.feed(text[77]);
    const auto a = exact.feed(text.first(300)), b = pieces.feed(text.subspan(78, 222));
    for (int j = 0; j < 31; ++j) EXPECT_EQ(a[j], b[j]);
  }
}

TEST_F(SessionTest, RefusesIdsOutOfRange) {
  Session session(model_, pool_);
  EXPECT_THROW(session.feed(31), Error);
  EXPECT_THROW(session.feed(-1), Error);
  EXPECT_THROW(session.feed(std::span<const int32_t>()), Error);
  // In the last of several chunks: nothing of the prompt has been read.
  tokens_.back() = 31;
  EXPECT_THROW(session.feed(tokens_), Error);
  EXPECT_THROW(session.feed_all(tokens_), Error);
  EXPECT_EQ(session.position(), 0);
  EXPECT_EQ(elements(session.state().slot(0)), elements(State(model_.state_layout(), 1).slot(0)));
  const Model other = Model::initialised(make_config("4", 1, 16, 31), {.scheme = "random"}, pool_);
  EXPECT_THROW(session.set_state(State(other.state_layout(), 1), 0), Error);
}

}  // namespace
}  // namespace rookery
