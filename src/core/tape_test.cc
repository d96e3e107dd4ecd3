// Which gradients are overwritten, added to, handed on, kept and given back.

#include "core/tape.h"

#include <gtest/gtest.h>

#include <cstring>

namespace rookery {
namespace {

class TapeTest : public ::testing::Test {
 protected:
  // A tensor of two numbers, which only has to have a name.
  static Tensor tensor(int64_t id, DType dtype = DType::kF32) {
    return {{nullptr, dtype, {2}}, id};
  }
  static TensorView view(float* values) { return {values, DType::kF32, {2}}; }

  // What a backward does: overwrites the gradient or adds to it, as it is told.
  void write(const Tensor& to, float first, float second) {
    const GradView out = tape_.gradient_out(to);
    const float values[] = {first, second};
    for (int i = 0; i < 2; ++i) {
      out.as<float>()[i] = out.accumulate ? out.as<float>()[i] + values[i] : values[i];
    }
  }
  void expect_gradient(const Tensor& of, float first, float second) {
    const TensorView gradient = tape_.gradient(of);
    ASSERT_TRUE(gradient);
    EXPECT_EQ(gradient.as<float>()[0], first);
    EXPECT_EQ(gradient.as<float>()[1], second);
  }

  Tape tape_;
};

// b is made of a parameter x and of a, which is made of x, too.
TEST_F(TapeTest, AddsAtForksAndReportsEachParameterOnce) {
  float x_gradient[] = {7, 0}, unused_gradient[] = {3, 3};
  const Tensor x = tensor(-1), unused = tensor(-2), a = tensor(1), b = tensor(2);
  std::vector<int64_t> complete;
  tape_.on_gradient_complete = [&](int64_t id) { complete.push_back(id); };
  tape_.keep_gradient(x, view(x_gradient), /*accumulate=*/true);
  tape_.keep_gradient(unused, view(unused_gradient), /*accumulate=*/false);
  tape_.record("first", {x}, {a}, [&] {
    EXPECT_TRUE(complete.empty());
    const float* da = tape_.gradient(a).as<float>();
    write(x, 2 * da[0], 3 * da[1]);
  });
  tape_.record("second", {x, a}, {b}, [&] {
    write(x, 10, 20);
    write(a, 3, 5);
    write(a, 1, 1);
  });
  EXPECT_EQ(tape_.backward_order(), (std::vector<std::string>{"second", "first"}));
  EXPECT_EQ(tape_.size(), 2u);
  tape_.run_backward();
  EXPECT_EQ(x_gradient[0], 7 + 10 + 2 * 4);
  EXPECT_EQ(x_gradient[1], 0 + 20 + 3 * 6);
  EXPECT_EQ(unused_gradient[0], 3);
  EXPECT_EQ(complete, std::vector<int64_t>{-1});
  EXPECT_EQ(tape_.size(), 0u);
}

TEST_F(TapeTest, AKeptGradientIsOverwrittenOrAddedTo) {
  for (const bool accumulate : {false, true}) {
    float gradient[] = {7, 8};
    const Tensor x = tensor(-1);
    tape_.keep_gradient(x, view(gradient), accumulate);
    EXPECT_FALSE(tape_.gradient(x));  // nothing has arrived in this pass
    write(x, 1, 2);
    EXPECT_EQ(gradient[0], accumulate ? 8 : 1);
    write(x, 1, 2);  // of one pass everything is added
    EXPECT_EQ(gradient[0], accumulate ? 9 : 2);
    EXPECT_EQ(gradient[1], accumulate ? 12 : 4);
    tape_.clear();
  }
}

TEST_F(TapeTest, NobodyWantsTheGradientOfAConstant) {
  EXPECT_FALSE(tape_.gradient_out(tensor(0)));
  EXPECT_FALSE(tape_.hand_on(tensor(1), tensor(0)));
  EXPECT_FALSE(tape_.gradient(tensor(3)));
}

TEST_F(TapeTest, HandsAGradientOnWithoutCopyingIt) {
  const Tensor y = tensor(1), x = tensor(2);
  write(y, 4, 5);
  const void* const memory = tape_.gradient(y).data;
  ASSERT_TRUE(tape_.hand_on(y, x));
  expect_gradient(x, 4, 5);
  EXPECT_EQ(tape_.gradient(x).data, memory);
  EXPECT_FALSE(tape_.gradient(y));
  write(x, 1, 1);  // a later part is added
  expect_gradient(x, 5, 6);
}

// After that it has no gradient any more: what comes for it then begins anew.
TEST_F(TapeTest, AGradientThatWasHandedOnIsGone) {
  const Tensor used = tensor(3), y = tensor(1), x = tensor(2);
  tape_.record("made", {}, {used}, [] {});
  write(used, 7, 7);
  tape_.run_backward();  // leaves memory that holds something
  write(y, 4, 5);
  write(used, 7, 7);
  tape_.record("made", {}, {used}, [] {});
  tape_.run_backward();
  ASSERT_TRUE(tape_.hand_on(y, x));
  write(y, 1, 2);
  expect_gradient(y, 1, 2);
  expect_gradient(x, 4, 5);
}

TEST_F(TapeTest, HandsNothingOnToATensorThatHasAGradient) {
  const Tensor y = tensor(1), x = tensor(2);
  write(x, 10, 20);
  write(y, 4, 5);
  EXPECT_FALSE(tape_.hand_on(y, x));
  expect_gradient(x, 10, 20);
  expect_gradient(y, 4, 5);
}

TEST_F(TapeTest, HandsNothingOnToOrFromAKeptGradient) {
  float kept[] = {6, 7};
  const Tensor y = tensor(1), x = tensor(2), parameter = tensor(-1);
  tape_.keep_gradient(parameter, view(kept), false);
  write(y, 4, 5);
  EXPECT_FALSE(tape_.hand_on(y, parameter));
  expect_gradient(y, 4, 5);
  write(parameter, 1, 2);
  EXPECT_FALSE(tape_.hand_on(parameter, x));
  expect_gradient(parameter, 1, 2);
  EXPECT_EQ(kept[1], 2);
  EXPECT_FALSE(tape_.gradient(x));
}

TEST_F(TapeTest, HandsNothingOnThatIsNotThereOrOfAnotherType) {
  EXPECT_FALSE(tape_.hand_on(tensor(1), tensor(2)));
  const Tensor y = tensor(3);
  write(y, 4, 5);
  EXPECT_FALSE(tape_.hand_on(y, tensor(4, DType::kBF16)));
  expect_gradient(y, 4, 5);
}

TEST_F(TapeTest, MovesWhatArrivedIntoASecondRun) {
  const Tensor from = tensor(1), to = tensor(2);
  tape_.move_gradient(from, to);  // nothing arrived: nothing depends on it
  EXPECT_FALSE(tape_.gradient(to));
  write(from, 4, 5);
  tape_.move_gradient(from, to);
  expect_gradient(to, 4, 5);
  EXPECT_FALSE(tape_.gradient(from));
}

TEST_F(TapeTest, RunsDownToARecord) {
  std::string order;
  for (const char* name : {"a", "b", "c"}) {
    tape_.record(name, {tensor(1)}, {tensor(2)}, [&order, name] { order += name; });
  }
  tape_.run_backward(1);
  EXPECT_EQ(order, "cb");
  EXPECT_EQ(tape_.size(), 1u);
  tape_.run_backward();
  EXPECT_EQ(order, "cba");
}

// A chain of ten: when an operator has run its backward, the gradient of what it made is not needed
// any more.
TEST_F(TapeTest, GradientsOfActivationsShareTheirMemory) {
  for (int64_t id = 1; id <= 10; ++id) {
    tape_.record("copy", {tensor(id)}, {tensor(id + 1)}, [this, id] {
      const float* dy = tape_.gradient(tensor(id + 1)).as<float>();
      write(tensor(id), dy[0], dy[1]);
    });
  }
  write(tensor(11), 4, 5);
  const int64_t one = tape_.peak_bytes();
  tape_.run_backward();
  expect_gradient(tensor(1), 4, 5);
  EXPECT_EQ(tape_.peak_bytes(), 2 * one);
  tape_.clear();
  EXPECT_FALSE(tape_.gradient(tensor(1)));
  write(tensor(1), 1, 1);  // after a pass nothing is added to what it left
  expect_gradient(tensor(1), 1, 1);
}

}  // namespace
}  // namespace rookery
