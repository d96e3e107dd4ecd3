// Gradients whose type differs from the tensor's.

#include "core/tape.h"

#include <gtest/gtest.h>

#include "checking/checked_run.h"
#include "checking/operator_test.h"
#include "ops/linear/linear.h"

namespace rookery {
namespace {

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
      cuda::synchronize();
      // dW = dv^T x with x = 1, and dv is rounded to bfloat16 once.
      for (const double number : elements(gradient)) EXPECT_EQ(number, wide ? 396 : kLost);
    }
  }
}

}  // namespace
}  // namespace rookery
