// Which gradients are overwritten, added to, handed on, kept and given back, and gradients whose
// type differs from the tensor's.

#include "core/tape.h"

#include <gtest/gtest.h>

#include <cstring>

#include "checking/checked_run.h"
#include "checking/operator_test.h"
#include "ops/linear/linear.h"

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

// Contributions that bfloat16 can hold. Their sum in bfloat16 stops at 256, where its next number
// is 258.
constexpr float kPart = 1 - 0x1p-7f;
constexpr int kParts = 400;
constexpr double kSum = kParts * kPart, kLost = 256;

class WideGradientTest : public ::testing::Test {
 protected:
  void add(const Tensor& to, float value) {
    const GradView out = tape.gradient_out(to);
    const double sum = value + (out.accumulate ? element(out, 0) : 0);
    if (out.dtype == DType::kF32) {
      *out.as<float>() = static_cast<float>(sum);
    } else {
      *out.as<BFloat16>() = to_bfloat16(static_cast<float>(sum));
    }
  }
  // Of a bfloat16 tensor that many records read, as the record that made it sees it.
  double sum_of_parts(bool wide) {
    tape.clear();
    const Tensor x{{nullptr, DType::kBF16, {1}}, 1};
    double sum = 0;
    tape.record("make", {}, {x}, [&, x] { sum = element(tape.gradient(x), 0); });
    if (wide) tape.set_gradient_type(x, DType::kF32);
    for (int i = 0; i < kParts; ++i) tape.record("read", {x}, {}, [&, x] { add(x, kPart); });
    tape.run_backward();
    return sum;
  }
  Tape tape;
};

TEST_F(WideGradientTest, SumsWhatBfloat16Loses) {
  EXPECT_EQ(sum_of_parts(true), kSum);
  EXPECT_EQ(sum_of_parts(false), kLost);
  EXPECT_EQ(sum_of_parts(true), kSum);  // said anew for each pass, and memory is used again
}

TEST_F(WideGradientTest, IsHandedOnWhereTheTypesAgree) {
  const Tensor narrow{{nullptr, DType::kBF16, {1}}, 1}, wide{{nullptr, DType::kF32, {1}}, 2},
      other{{nullptr, DType::kF32, {1}}, 3}, widened{{nullptr, DType::kBF16, {1}}, 4};
  tape.set_gradient_type(widened, DType::kF32);
  add(wide, 3);
  EXPECT_FALSE(tape.hand_on(wide, narrow));
  EXPECT_TRUE(tape.hand_on(wide, widened));
  EXPECT_FALSE(tape.hand_on(widened, narrow));
  EXPECT_TRUE(tape.hand_on(widened, other));
  EXPECT_EQ(element(tape.gradient(other), 0), 3);
  add(narrow, 5);
  EXPECT_FALSE(tape.hand_on(narrow, wide));
}

TEST_F(WideGradientTest, KeepsItsTypeOnTheWayIntoALayer) {
  const Tensor outside{{nullptr, DType::kBF16, {1}}, 1}, inside{{nullptr, DType::kBF16, {1}}, 2};
  tape.set_gradient_type(outside, DType::kF32);
  for (int i = 0; i < kParts; ++i) add(outside, kPart);
  tape.move_gradient(outside, inside);
  EXPECT_FALSE(tape.gradient(outside));
  EXPECT_EQ(tape.gradient(inside).dtype, DType::kF32);
  add(inside, kPart);  // a contribution of the layer's own
  EXPECT_EQ(element(tape.gradient(inside), 0), kSum + kPart);
}

// On a GPU activations are bfloat16: v = x W^T is read by 400 linear layers whose weight is 1.
TEST(WideGradient, OfALayersOutputOnTheGpu) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kWidth = 64;
  const auto on_gpu = [](Memory& memory, float diagonal, float rest) {
    std::vector<BFloat16> numbers(kWidth * kWidth, to_bfloat16(rest));
    for (int64_t i = 0; i < kWidth; ++i) numbers[i * kWidth + i] = to_bfloat16(diagonal);
    memory = Memory(kWidth * kWidth * 2, MemoryKind::kDevice);
    copy_bytes(memory.data(), numbers.data(), kWidth * kWidth * 2);
    return TensorView{memory.data(), DType::kBF16, {kWidth, kWidth}};
  };
  Memory x_memory, weight_memory, dy_memory,
      gradient_memory(kWidth * kWidth * 4, MemoryKind::kDevice);
  ThreadPool pool(1);
  Arena arena(MemoryKind::kDevice);
  Context ctx;
  ctx.use(Device::kCuda, DType::kBF16);
  ctx.pool = &pool;
  ctx.arena = &arena;
  const Tensor x{on_gpu(x_memory, 1, 0), ++ctx.last_id};
  const Tensor weight{on_gpu(weight_memory, 1, 0), ++ctx.last_id};
  const Weight fixed{Tensor{static_cast<const TensorView&>(weight)}, {}};
  const TensorView part = on_gpu(dy_memory, kPart, kPart);
  const TensorView gradient{gradient_memory.data(), DType::kF32, {kWidth, kWidth}};
  for (const bool checkpointing : {false, true}) {
    for (const bool wide : {false, true}) {
      Tape tape(MemoryKind::kDevice);
      arena.reset();
      ctx.tape = &tape;
      ctx.gradient_checkpointing = checkpointing;
      tape.keep_gradient(weight, gradient, false);
      const Tensor v = ctx.layer({x}, {x.type()}, [&](const std::vector<Tensor>& in) {
        return std::vector{linear(ctx, in[0], Weight{weight, {}})};
      })[0];
      if (wide) ctx.widen_gradient(v);
      std::vector<Tensor> readers;
      for (int i = 0; i < kParts; ++i) readers.push_back(linear(ctx, v, fixed));
      for (const Tensor& y : readers)
        copy_bytes(tape.gradient_out(y).data, part.data, part.bytes());
      tape.run_backward();
      ctx.wait();
      // dW = dv^T x with x = 1, and dv is rounded to bfloat16 once.
      for (const double number : elements(gradient)) EXPECT_EQ(number, wide ? 396 : kLost);
    }
  }
}

}  // namespace
}  // namespace rookery
