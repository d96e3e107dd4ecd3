#include <limits>

#include "checking/operator_test.h"
#include "ops/log_decay/log_decay_ref.h"

namespace rookery {
namespace {

class LogDecayTest : public OperatorTest {};

TEST_F(LogDecayTest, ForwardMatchesDefinition) {
  for (const int64_t count : {0, 1, 5, 16, 33, 10001}) {
    EXPECT_FORWARD(log_decay, (LogDecayForward{random({count}, 2, -3), make({count})}));
  }
}

TEST_F(LogDecayTest, ExtremesAreThoseOfTheExponential) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const TensorView x = make({7});
  const float values[] = {-kInfinity, -200, 0, 89, 200, kInfinity, std::nanf("")};
  std::copy_n(values, 7, x.as<float>());
  const LogDecayForward args{x, make({7})};
  on_every_target([&] {
    cpu::log_decay_forward(args, ctx);
    const float* y = args.y.as<float>();
    const float expected[] = {0, 0, -1, -kInfinity, -kInfinity, -kInfinity};
    for (int i = 0; i < 6; ++i) EXPECT_EQ(y[i], expected[i]) << values[i];
    EXPECT_TRUE(std::isnan(y[6]));
  });
}

TEST_F(LogDecayTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const int64_t count : {1, 3, 16, 37}) {
      const LogDecayForward forward{random({count}, 2, -3), make({count})};
      cpu::log_decay_forward(forward, ctx);
      const LogDecayBackward backward{forward, random({count}), gradient({count}, accumulate)};
      EXPECT_BACKWARD(log_decay, backward);
    }
  }
}

TEST_F(LogDecayTest, RecordsAndChecksItself) {
  Tape tape;
  ctx.tape = &tape;
  ctx.checker = &checker;
  const Tensor x{random({3, 4}), ++ctx.last_id};
  const TensorView dx = make({3, 4});
  tape.keep_gradient(x, dx, false);
  const Tensor y = log_decay(ctx, x);
  EXPECT_EQ(y.shape, x.shape);
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 1.0f);
  tape.run_backward();
  EXPECT_EQ(checker.checked, 2);
  EXPECT_EQ(elements(dx), elements(y));
}

TEST_F(LogDecayTest, GpuReadsWholeVectors) {
  SKIP_WITHOUT_GPU();
  aligned = true;
  for (const int64_t count : {0, 768, 4096, 10001}) {
    const LogDecayForward forward{random({count}, 2, -3), make({count})};
    EXPECT_CUDA_FORWARD_LIKE_CPU(log_decay, forward);
    for (const bool accumulate : {false, true}) {
      EXPECT_CUDA_BACKWARD_LIKE_CPU(
          log_decay, (LogDecayBackward{forward, random({count}), gradient({count}, accumulate)}));
    }
  }
}

TEST_F(LogDecayTest, GpuHasTheExtremesOfTheExponential) {
  SKIP_WITHOUT_GPU();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const TensorView x = make({7});
  const float values[] = {-kInfinity, -200, 0, 89, 200, kInfinity, std::nanf("")};
  std::copy_n(values, 7, x.as<float>());
  const OnDevice<LogDecayForward> there({x, make({7})});
  const Tensor result = log_decay(device_context(), Tensor{there.args.x});
  device_context().wait();
  const std::vector<double> y = elements(result);
  const double expected[] = {0, 0, -1, -kInfinity, -kInfinity, -kInfinity};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(y[i], expected[i]) << values[i];
  EXPECT_TRUE(std::isnan(y[6]));
}

}  // namespace
}  // namespace rookery
