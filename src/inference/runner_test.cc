#include "inference/runner.h"

#include <gtest/gtest.h>

#include <numeric>

#include "checking/operator_test.h"

namespace rookery {
namespace {

constexpr int kVocabulary = 31;

class ModelRunnerTest : public ::testing::Test {
 protected:
  ModelRunnerTest() {
    for (int i = 0; i < 400; ++i) text_.push_back((i * i + 5 * i) % kVocabulary);
  }
  // Runs `check` with the model where tests compare bits: there are no neighbours that matter.
  ModelRunner make(const Model& model, int64_t slots) {
    return ModelRunner(model, pool_, slots, /*deterministic=*/true);
  }
  std::span<const int32_t> text(int64_t begin, int64_t length) const {
    return std::span(text_).subspan(begin, length);
  }
  static void want_all(Batch& batch) {
    batch.wanted.resize(batch.rows());
    std::iota(batch.wanted.begin(), batch.wanted.end(), 0);
  }
  static std::vector<float> logits_of(ModelRunner& runner, const Batch& batch) {
    const std::span<const float> logits = runner.on_host(runner.forward(batch));
    return {logits.begin(), logits.end()};
  }
  // The logits after every token of `tokens`, read alone and at once.
  std::vector<float> alone(const Model& model, std::span<const int32_t> tokens) {
    ModelRunner runner = make(model, 1);
    Batch batch;
    batch.add(tokens, -1, 0);
    want_all(batch);
    return logits_of(runner, batch);
  }

  // Two sequences in pieces, packed with each other in one runner.
  void expect_interleaved_as_alone(const Model& model) {
    const auto a = text(0, 100), b = text(57, 130);
    const std::vector<float> a_alone = alone(model, a), b_alone = alone(model, b);
    ModelRunner runner = make(model, 4);
    std::vector<float> a_packed, b_packed;
    int64_t a_read = 0, b_read = 0;
    // Lengths of the pieces; single tokens of both, which a GPU captures, among them, and pieces of
    // one of the two.
    const std::pair<int64_t, int64_t> pieces[] = {{40, 3}, {1, 1},  {1, 1}, {1, 1}, {1, 1},
                                                  {0, 90}, {17, 0}, {2, 1}, {1, 1}, {36, 31}};
    for (const auto& [a_length, b_length] : pieces) {
      Batch batch;
      if (b_length > 0) batch.add(b.subspan(b_read, b_length), b_read == 0 ? -1 : 1, 1);
      if (a_length > 0) batch.add(a.subspan(a_read, a_length), a_read == 0 ? -1 : 3, 3);
      want_all(batch);
      const std::vector<float> logits = logits_of(runner, batch);
      ASSERT_EQ(logits.size(), (a_length + b_length) * kVocabulary);
      const auto border = logits.begin() + b_length * kVocabulary;
      b_packed.insert(b_packed.end(), logits.begin(), border);
      a_packed.insert(a_packed.end(), border, logits.end());
      a_read += a_length, b_read += b_length;
    }
    EXPECT_EQ(a_packed, a_alone);
    EXPECT_EQ(b_packed, b_alone);
  }

  void expect_copied_slots_are_forks(const Model& model) {
    const std::vector<float> straight = alone(model, text(0, 60));
    ModelRunner runner = make(model, 3);
    Batch batch;
    batch.add(text(0, 20), -1, 1);
    runner.forward(batch);
    runner.copy_slot(1, 2);
    batch.clear();
    batch.add(text(200, 30), 1, 1);  // goes its own way
    runner.forward(batch);
    for (const int64_t slot_out : {-1, 2}) {  // the first leaves the fork as it is
      batch.clear();
      batch.add(text(20, 40), 2, slot_out);
      want_all(batch);
      const std::vector<float> rest(straight.begin() + 20 * kVocabulary, straight.end());
      EXPECT_EQ(logits_of(runner, batch), rest);
    }
    // A cleared slot, and -1, are the empty state.
    runner.clear_slot(2);
    for (const int64_t slot_in : {2, -1}) {
      batch.clear();
      batch.add(text(0, 60), slot_in, -1);
      want_all(batch);
      EXPECT_EQ(logits_of(runner, batch), straight);
    }
    // All states at once, from another runner.
    ModelRunner other = make(model, 3);
    other.set_states(runner.states());
    batch.clear();
    batch.add(text(60, 5), 1, -1);
    want_all(batch);
    EXPECT_EQ(logits_of(other, batch), logits_of(runner, batch));
  }

  void expect_wanted_rows_of_all(const Model& model) {
    ModelRunner runner = make(model, 1);
    Batch batch;
    batch.add(text(0, 30), -1, -1);
    batch.add(text(9, 50), -1, -1);
    want_all(batch);
    const std::vector<float> all = logits_of(runner, batch);
    std::vector<float> pieces;
    runner.forward(batch, [&](int64_t first, std::span<const float> logits) {
      EXPECT_EQ(first * kVocabulary, std::ssize(pieces));
      pieces.insert(pieces.end(), logits.begin(), logits.end());
    });
    EXPECT_EQ(pieces, all);
    for (const std::vector<int32_t>& rows :
         {std::vector<int32_t>{79}, {29, 30}, {5, 4, 4, 79, 0}, {0, 0, 2}}) {
      batch.wanted = rows;
      const std::vector<float> logits = logits_of(runner, batch);
      ASSERT_EQ(logits.size(), rows.size() * kVocabulary);
      for (size_t i = 0; i < rows.size(); ++i) {
        for (int j = 0; j < kVocabulary; ++j) {
          ASSERT_EQ(logits[i * kVocabulary + j], all[rows[i] * kVocabulary + j]) << rows[i];
        }
      }
    }
    batch.wanted.clear();
    EXPECT_FALSE(runner.forward(batch));
  }

  ThreadPool pool_{2};
  Model model_ =
      Model::initialised(make_config("4", 2, 16, kVocabulary), {.scheme = "random"}, pool_);
  std::vector<int32_t> text_;
};

TEST_F(ModelRunnerTest, InterleavedSequencesAreEachAsAlone) { expect_interleaved_as_alone(model_); }
TEST_F(ModelRunnerTest, ACopiedSlotIsAFork) { expect_copied_slots_are_forks(model_); }
TEST_F(ModelRunnerTest, WantedRowsAreThoseOfAll) { expect_wanted_rows_of_all(model_); }

TEST_F(ModelRunnerTest, SlotsOnAGpu) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(name_of(type));
    const Model there = model_.on_gpu(type);
    expect_interleaved_as_alone(there);
    expect_copied_slots_are_forks(there);
    expect_wanted_rows_of_all(there);
  }
}

// A captured step serves other slots and other tokens: it finds them in memory.
TEST_F(ModelRunnerTest, ACapturedStepServesOtherSlots) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Model there = model_.on_gpu(type);
    ModelRunner captured(there, pool_, 8), plain(there, pool_, 8);
    Profile profile;
    plain.context().profile = &profile;  // kernel by kernel
    for (int64_t t = 0; t < 30; ++t) {
      Batch batch;
      for (int64_t s = 0; s < 3; ++s) {
        const int64_t in = (t + 2 * s) % 8, out = t % 5 == 4 ? in : (t + 2 * s + 1) % 8;
        batch.add(text(3 * t + s, 1), t == 0 ? -1 : in, out);
      }
      want_all(batch);
      ASSERT_EQ(logits_of(captured, batch), logits_of(plain, batch)) << t;
    }
    EXPECT_EQ(elements(captured.states().view(0)), elements(plain.states().view(0)));
  }
}

TEST_F(ModelRunnerTest, RefusesWhatIsNotThere) {
  ModelRunner runner = make(model_, 1);
  Batch batch;
  batch.add(text(0, 3), 0, 0);
  batch.wanted = {3};
  EXPECT_THROW(runner.forward(batch), Error);
  batch.wanted = {-1};
  EXPECT_THROW(runner.forward(batch), Error);
  batch.wanted = {0, 0, 0, 0};
  EXPECT_THROW(runner.forward(batch), Error);
  batch.wanted.clear();
  batch.tokens[1] = kVocabulary;
  EXPECT_THROW(runner.forward(batch), Error);
  EXPECT_EQ(elements(runner.states().slot(0)), elements(State(model_.state_layout(), 1).slot(0)));
  EXPECT_THROW(runner.set_states(State(model_.state_layout(), 2)), Error);
}

}  // namespace
}  // namespace rookery
