#include "checking/operator_test.h"
#include "ops/sigmoid_gate/sigmoid_gate_ref.h"

namespace rookery {
namespace {

class SigmoidGateTest : public OperatorTest {
 protected:
  SigmoidGateForward make_forward(const Shape& shape, bool residual, double scale = 2,
                                  DType dtype = DType::kF32) {
    return {random(shape, scale, 0, dtype), random(shape, 1, 0, dtype),
            residual ? random(shape) : TensorView{}, make(shape, residual ? DType::kF32 : dtype)};
  }
};

TEST_F(SigmoidGateTest, ForwardMatchesDefinition) {
  for (const bool residual : {false, true}) {
    for (const int64_t rows : {0, 1, 2, 300}) {
      for (const int64_t width : {1, 5, 16, 33}) {
        EXPECT_FORWARD(sigmoid_gate, make_forward({rows, width}, residual));
      }
    }
  }
}

TEST_F(SigmoidGateTest, GateSaturates) {
  EXPECT_FORWARD(sigmoid_gate, make_forward({20, 33}, false, /*scale=*/30));
}

TEST_F(SigmoidGateTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const bool residual : {false, true}) {
      for (const int64_t width : {1, 3, 16, 21}) {
        const Shape shape{7, width};
        const SigmoidGateForward forward = make_forward(shape, residual);
        const SigmoidGateBackward backward{forward, random(shape), gradient(shape, accumulate),
                                           gradient(shape, accumulate),
                                           residual ? gradient(shape, accumulate) : GradView{}};
        EXPECT_BACKWARD(sigmoid_gate, backward);
      }
    }
  }
}

TEST_F(SigmoidGateTest, WritesOnlyTheGradientsThatAreWanted) {
  const Shape shape{3, 5};
  const SigmoidGateForward forward = make_forward(shape, true);
  const TensorView dy = random(shape);
  EXPECT_BACKWARD(sigmoid_gate, (SigmoidGateBackward{forward, dy, gradient(shape, false), {}, {}}));
  EXPECT_BACKWARD(sigmoid_gate, (SigmoidGateBackward{forward, dy, {}, gradient(shape, false), {}}));
  EXPECT_BACKWARD(sigmoid_gate, (SigmoidGateBackward{forward, dy, {}, {}, gradient(shape, false)}));
}

TEST_F(SigmoidGateTest, RecordsAndChecksItself) {
  Tape tape;
  ctx.tape = &tape;
  ctx.checker = &checker;
  const Tensor r{random({5, 6}), ++ctx.last_id}, v{random({5, 6}), ++ctx.last_id};
  const Tensor residual{random({5, 6}), ++ctx.last_id};
  const Tensor y = sigmoid_gate(ctx, r, v, residual);
  const Tensor z = sigmoid_gate(ctx, y, v);
  const GradView dz = tape.gradient_out(z);
  std::fill_n(dz.as<float>(), dz.count(), 1.0f);
  tape.run_backward();
  EXPECT_EQ(checker.checked, 4);
}

TEST_F(SigmoidGateTest, OneTensorMayBeValueAndResidual) {
  Tape tape;
  ctx.tape = &tape;
  const Tensor r{random({5, 6}), ++ctx.last_id}, x{random({5, 6}), ++ctx.last_id};
  const TensorView dx = make({5, 6});
  tape.keep_gradient(x, dx, false);
  const Tensor y = sigmoid_gate(ctx, r, x, x);
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 1.0f);
  tape.run_backward();
  for (int64_t i = 0; i < x.count(); ++i) {
    EXPECT_NEAR(dx.as<float>()[i], 1 + 1 / (1 + std::exp(-r.as<float>()[i])), 1e-6);
  }
}

TEST_F(SigmoidGateTest, RefusesOtherShapes) {
  const Tensor a{random({2, 3})}, b{random({3, 2})};
  EXPECT_THROW(sigmoid_gate(ctx, a, b), Error);
  EXPECT_THROW(sigmoid_gate(ctx, a, a, b), Error);
}

TEST_F(SigmoidGateTest, GpuHasTypesOfItsOwn) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : {Shape{0, 8}, {3, 5}, {9, 768}, {67, 72}}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        for (const bool residual : {true, false}) {
          const SigmoidGateForward f = make_forward(shape, residual, 2, dtype);
          EXPECT_CUDA_FORWARD_LIKE_CPU(sigmoid_gate, f);
          for (const bool accumulate : {false, true}) {
            EXPECT_CUDA_BACKWARD_LIKE_CPU(
                sigmoid_gate,
                (SigmoidGateBackward{f, random(shape, 1, 0, f.y.dtype),
                                     gradient(shape, accumulate, dtype),
                                     gradient(shape, accumulate, dtype),
                                     residual ? gradient(shape, accumulate) : GradView{}}));
          }
        }
      }
    }
  }
}

TEST_F(SigmoidGateTest, GpuGateSaturates) {
  SKIP_WITHOUT_GPU();
  const SigmoidGateForward f = make_forward({16}, false);
  const float far[] = {1e30f,    -1e30f,    100, -100, 88.5f, -88.5f, 126,  -126,
                       INFINITY, -INFINITY, 0,   128,  -128,  200,    -200, 1};
  std::copy_n(far, 16, f.r.as<float>());
  EXPECT_CUDA_FORWARD_LIKE_CPU(sigmoid_gate, f);
}

TEST_F(SigmoidGateTest, GpuAddsTheGradientsOfOneTensor) {
  SKIP_WITHOUT_GPU();
  for (const bool all_aligned : {true, false}) {
    aligned = all_aligned;
    SigmoidGateForward f = make_forward({6, 8}, true);
    f.residual = f.v;
    GradView first = gradient({6, 8}, false), second = first;
    second.accumulate = true;
    EXPECT_CUDA_BACKWARD_LIKE_CPU(
        sigmoid_gate,
        (SigmoidGateBackward{f, random({6, 8}), gradient({6, 8}, false), first, second}));
  }
}

}  // namespace
}  // namespace rookery
