#include <algorithm>
#include <vector>

#include "checking/operator_test.h"
#include "ops/dropout/dropout_ref.h"

namespace rookery {
namespace {

class DropoutTest : public OperatorTest {
 protected:
  static constexpr uint64_t kBase = 0xfedcba0000;
  // Seed and stream with numbers in their upper halves.
  DropoutForward make_forward(const Shape& shape, float probability, bool residual,
                              DType dtype = DType::kF32) {
    return {random(shape, 1, 0, dtype),
            residual ? random(shape) : TensorView{},
            probability,
            0x123456789abcdef0,
            {&kBase, nullptr},
            0x9876,
            make(shape, residual ? DType::kF32 : dtype)};
  }
};

TEST_F(DropoutTest, ForwardMatchesDefinition) {
  for (const bool residual : {false, true}) {
    for (const float probability : {0.0f, 0.1f, 0.5f, 0x1.fffffep-1f}) {
      for (const int64_t count : {0, 1, 3, 4, 5, 64, 129, 10003}) {
        EXPECT_FORWARD(dropout, make_forward({count}, probability, residual));
      }
    }
  }
}

TEST_F(DropoutTest, KeepsTheShareItShould) {
  const DropoutForward args = make_forward({100000}, 0.3f, false);
  cpu::dropout_forward(args, ctx);
  const double kept = 100000.0 - std::count(args.y.as<float>(), args.y.as<float>() + 100000, 0.0f);
  EXPECT_NEAR(kept / 100000, 0.7, 5 * std::sqrt(0.3 * 0.7 / 100000));
}

TEST_F(DropoutTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const bool residual : {false, true}) {
      for (const int64_t width : {1, 3, 16, 21}) {
        const Shape shape{7, width};
        const DropoutForward forward = make_forward(shape, 0.4f, residual);
        const DropoutBackward backward{forward, random(shape), gradient(shape, accumulate),
                                       residual ? gradient(shape, accumulate) : GradView{}};
        EXPECT_BACKWARD(dropout, backward);
      }
    }
  }
}

TEST_F(DropoutTest, RecordsAndChecksItself) {
  Tape tape;
  ctx.tape = &tape;
  ctx.checker = &checker;
  const Tensor x{random({50, 6}), ++ctx.last_id}, residual{random({50, 6}), ++ctx.last_id};
  const Tensor y = dropout(ctx, dropout(ctx, x, 0.5f), 0.25f, residual);
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 1.0f);
  tape.run_backward();
  EXPECT_EQ(checker.checked, 4);
}

TEST_F(DropoutTest, OneTensorMayBeInputAndResidual) {
  Tape tape;
  ctx.tape = &tape;
  const Tensor x{random({50, 6}), ++ctx.last_id};
  const TensorView dx = make({50, 6});
  tape.keep_gradient(x, dx, false);
  const Tensor y = dropout(ctx, x, 0.5f, x);
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 1.0f);
  tape.run_backward();
  for (int64_t i = 0; i < x.count(); ++i) {
    const float expected = y.as<float>()[i] == x.as<float>()[i] ? 1 : 3;
    EXPECT_EQ(dx.as<float>()[i], expected);
  }
}

TEST_F(DropoutTest, EveryCallHasItsMaskAndAReplayRepeatsIt) {
  ctx.random_stream = 5;
  const Tensor x{random({1000})};
  const std::vector<double> first = elements(dropout(ctx, x, 0.5f));
  EXPECT_EQ(ctx.random_stream, 6u);
  EXPECT_NE(elements(dropout(ctx, x, 0.5f)), first);
  EXPECT_EQ(ctx.random_stream, 7u);
  ctx.random_stream = 5;
  EXPECT_EQ(elements(dropout(ctx, x, 0.5f)), first);
  ctx.random_stream = 5;
  ctx.seed = 1;
  EXPECT_NE(elements(dropout(ctx, x, 0.5f)), first);
}

TEST_F(DropoutTest, PlanningTakesAStreamToo) {
  Arena planning(MemoryKind::kPlan);
  ctx.arena = &planning;
  ctx.device = Device::kMeta;
  dropout(ctx, Tensor{planning.make({3, 4}, DType::kF32)}, 0.5f);
  EXPECT_EQ(ctx.random_stream, 1u);
}

TEST_F(DropoutTest, RefusesWrongArguments) {
  const Tensor x{random({2, 3})};
  for (const float probability : {1.0f, 1.5f, -0.1f, std::nanf("")}) {
    EXPECT_THROW(dropout(ctx, x, probability), Error);
  }
  EXPECT_THROW(dropout(ctx, x, 0.1f, Tensor{random({3, 2})}), Error);
}

TEST_F(DropoutTest, GpuHasTypesOfItsOwn) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : {Shape{0, 8}, {3, 5}, {9, 768}, {67, 72}}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        for (const bool residual : {true, false}) {
          const DropoutForward f = make_forward(shape, 0.3f, residual, dtype);
          EXPECT_CUDA_FORWARD_LIKE_CPU(dropout, f);
          for (const bool accumulate : {false, true}) {
            EXPECT_CUDA_BACKWARD_LIKE_CPU(
                dropout, (DropoutBackward{f, random(shape, 1, 0, f.y.dtype),
                                          gradient(shape, accumulate, dtype),
                                          residual ? gradient(shape, accumulate) : GradView{}}));
          }
        }
      }
    }
  }
}

TEST_F(DropoutTest, GpuAddsTheGradientsOfOneTensor) {
  SKIP_WITHOUT_GPU();
  DropoutForward f = make_forward({6, 8}, 0.5f, true);
  f.residual = f.x;
  GradView first = gradient({6, 8}, false), second = first;
  second.accumulate = true;
  EXPECT_CUDA_BACKWARD_LIKE_CPU(dropout, (DropoutBackward{f, random({6, 8}), first, second}));
}

}  // namespace
}  // namespace rookery
