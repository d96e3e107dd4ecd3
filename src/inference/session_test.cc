#include "inference/session.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <future>

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

TEST_F(SessionTest, TellsOfProgressAndStopsBetweenChunks) {
  Session session(model_, pool_), other(model_, pool_);
  std::vector<int64_t> told;
  const auto all = [&](int64_t read) {
    told.push_back(read);
    return true;
  };
  const auto logits = session.feed(tokens_, all);
  EXPECT_EQ(told, (std::vector<int64_t>{512, 1024, 1300}));
  const auto expected = other.feed(tokens_);
  ASSERT_EQ(logits.size(), expected.size());
  for (size_t i = 0; i < logits.size(); ++i) EXPECT_EQ(logits[i], expected[i]);

  // Stopped: the state is that after the first chunk, and reading can go on from there.
  session.reset();
  other.reset();
  EXPECT_TRUE(session.feed(tokens_, [](int64_t) { return false; }).empty());
  EXPECT_EQ(session.position(), 512);
  const std::span<const int32_t> text(tokens_);
  other.feed(text.first(512));
  EXPECT_EQ(std::memcmp(session.state().slot(0).data, other.state().slot(0).data,
                        session.state().slot_bytes()),
            0);
  const auto rest = session.feed(text.subspan(512), all), same = other.feed(text.subspan(512));
  for (size_t i = 0; i < rest.size(); ++i) EXPECT_EQ(rest[i], same[i]);
  EXPECT_EQ(session.position(), 1300);

  // After the last chunk there is nothing to stop.
  EXPECT_FALSE(session.feed(text.first(5), [](int64_t) { return false; }).empty());
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

// One host thread records and launches graphs of single tokens, while another reads prompts kernel
// by kernel and gets memory for them: each of them has the bits that it has alone.
TEST_F(SessionTest, TwoHostThreadsDoNotDisturbEachOther) {
  SKIP_WITHOUT_GPU();
  const Model model =
      Model::initialised(make_config("4", 2, 256, 512), {.scheme = "random"}, pool_);
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Model there = model.on_gpu(type);
    const auto token_by_token = [&] {
      ThreadPool pool(1);
      std::vector<float> all;
      for (int round = 0; round < 20; ++round) {
        Session session(there, pool);  // its second token is recorded
        for (int i = 0; i < 6; ++i) {
          const auto logits = session.feed(tokens_[i]);
          all.insert(all.end(), logits.begin(), logits.end());
        }
      }
      return all;
    };
    const auto prompts = [&] {
      ThreadPool pool(1);
      std::vector<float> all;
      for (int64_t length = 3; length < 1300; length *= 2) {
        Session session(there, pool);
        const auto logits = session.feed(std::span(tokens_).first(length));
        all.insert(all.end(), logits.begin(), logits.end());
      }
      return all;
    };
    const std::vector<float> tokens_alone = token_by_token(), prompts_alone = prompts();
    std::atomic<bool> done{false};
    auto tokens_beside = std::async(std::launch::async, [&] {
      std::vector<float> all;
      try {
        all = token_by_token();
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      done = true;
      return all;
    });
    do {
      EXPECT_EQ(prompts(), prompts_alone) << name_of(type);
    } while (!done);
    EXPECT_EQ(tokens_beside.get(), tokens_alone) << name_of(type);
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
