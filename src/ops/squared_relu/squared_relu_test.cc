#include "checking/operator_test.h"
#include "ops/squared_relu/squared_relu_ref.h"

namespace rookery {
namespace {

class SquaredReluTest : public OperatorTest {};

TEST_F(SquaredReluTest, ForwardMatchesDefinition) {
  for (const int64_t rows : {0, 1, 2, 700}) {
    for (const int64_t width : {1, 5, 16, 33}) {
      const SquaredReluForward args{random({rows, width}), make({rows, width})};
      EXPECT_FORWARD(squared_relu, args);
    }
  }
}

TEST_F(SquaredReluTest, NanStaysNan) {
  const TensorView x = random({19});
  x.as<float>()[2] = x.as<float>()[18] = std::nanf("");
  const SquaredReluForward args{x, make({19})};
  on_every_target([&] {
    cpu::squared_relu_forward(args, ctx);
    for (int64_t i = 0; i < 19; ++i) {
      EXPECT_EQ(std::isnan(args.y.as<float>()[i]), i == 2 || i == 18);
    }
  });
}

TEST_F(SquaredReluTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const int64_t width : {1, 3, 16, 21}) {
      const SquaredReluForward forward{random({7, width}), make({7, width})};
      const SquaredReluBackward backward{forward, random({7, width}),
                                         gradient({7, width}, accumulate)};
      EXPECT_BACKWARD(squared_relu, backward);
    }
  }
}

TEST_F(SquaredReluTest, RecordsAndChecksItself) {
  Tape tape;
  ctx.tape = &tape;
  ctx.checker = &checker;
  const Tensor x{random({5, 6}), ++ctx.last_id};
  const TensorView dx = make({5, 6});
  tape.keep_gradient(x, dx, false);
  const Tensor y = squared_relu(ctx, x);
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 3.0f);
  tape.run_backward();
  EXPECT_EQ(checker.checked, 2);
  for (int64_t i = 0; i < x.count(); ++i) {
    EXPECT_EQ(dx.as<float>()[i], 6 * std::max(x.as<float>()[i], 0.0f));
  }
}

TEST_F(SquaredReluTest, GpuHasTypesOfItsOwn) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : {Shape{0, 8}, {3, 5}, {9, 3072}, {67, 72}}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        const SquaredReluForward f{random(shape, 1, 0, dtype), make(shape, dtype)};
        EXPECT_CUDA_FORWARD_LIKE_CPU(squared_relu, f);
        for (const bool accumulate : {false, true}) {
          EXPECT_CUDA_BACKWARD_LIKE_CPU(squared_relu,
                                        (SquaredReluBackward{f, random(shape, 1, 0, dtype),
                                                             gradient(shape, accumulate, dtype)}));
        }
      }
    }
  }
}

TEST_F(SquaredReluTest, NanStaysNanOnTheGpu) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const TensorView x = make({24}, dtype);
    std::memset(x.data, 0, x.bytes());
    std::memset(x.data, 0xff, x.bytes() / 2);
    const OnDevice<SquaredReluForward> there({x, make({24}, dtype)});
    const Tensor y = squared_relu(device_context(dtype), Tensor{there.args.x});
    device_context(dtype).wait();
    const std::vector<double> values = elements(y);
    for (int i = 0; i < 24; ++i) EXPECT_EQ(std::isnan(values[i]), i < 12) << i;
  }
}

}  // namespace
}  // namespace rookery
