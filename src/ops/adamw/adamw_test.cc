#include <bit>
#include <vector>

#include "checking/operator_test.h"
#include "ops/adamw/adamw_ref.h"

namespace rookery {
namespace {

class AdamWTest : public OperatorTest {
 protected:
  AdamWTensor make_tensor(const Shape& shape, bool low = false) {
    AdamWTensor tensor{random(shape),
                       random(shape),
                       random(shape, 0.1),
                       random(shape),
                       low ? random(shape, 1, 0, DType::kBF16) : TensorView{},
                       1.5f,
                       0.1f};
    for (int64_t i = 0; i < tensor.v.count(); ++i) {
      // Not near 0: a parameter changes by the size of the rate, not by hundreds of it.
      tensor.v.as<float>()[i] = 0.01f + tensor.v.as<float>()[i] * tensor.v.as<float>()[i];
      // A sum that cancels loses digits, and the tolerance knows only the result.
      float& m = tensor.m.as<float>()[i];
      m = std::copysign(m, tensor.gradient.as<float>()[i]);
    }
    return tensor;
  }
  AdamWForward make_forward(std::vector<AdamWTensor> tensors, double norm = 1) {
    const TensorView one = arena.make({1}, DType::kF64);
    *one.as<double>() = norm;
    return {std::move(tensors), &step, one};
  }
  AdamWForward make_forward(const Shape& shape, bool low = false) {
    return make_forward({make_tensor(shape, low)}, 2);
  }
  AdamWStep step{0.01, 0.9, 0.99, 1e-18, 1.4, 3};
};

TEST_F(AdamWTest, MatchesDefinition) {
  for (const bool low : {false, true}) {
    for (const int64_t count : {0, 1, 5, 16, 33, 10001}) {
      const AdamWForward args = make_forward(Shape{count}, low);
      EXPECT_FORWARD(adamw, args);
      const AdamWTensor& t = args.tensors[0];
      for (int64_t i = 0; low && i < count; ++i) {
        EXPECT_EQ(t.low.as<BFloat16>()[i].bits, to_bfloat16(t.parameter.as<float>()[i]).bits);
      }
    }
  }
}

TEST_F(AdamWTest, ManyTensorsOfOddSizes) {
  std::vector<AdamWTensor> tensors;
  for (int64_t i = 0; i < 600; ++i)
    tensors.push_back(make_tensor({i % 5 == 0 ? 0 : 30 + i % 37}, i % 3 == 0));
  tensors.push_back(make_tensor({70001}, true));
  EXPECT_FORWARD(adamw, make_forward(tensors, 0.5));
}

TEST_F(AdamWTest, ANormThatIsNotFiniteChangesNothing) {
  const AdamWForward args = make_forward({make_tensor({50})}, std::nan(""));
  const std::vector<double> before = elements(args.tensors[0].parameter);
  adamw(ctx, args);
  EXPECT_EQ(elements(args.tensors[0].parameter), before);
}

TEST_F(AdamWTest, RoundsToNearestEven) {
  constexpr int kCount = 21;
  const AdamWForward all = make_forward(Shape{kCount}, true);
  const AdamWTensor& args = all.tensors[0];
  step.learning_rate = 0;  // the parameter stays
  const uint32_t bits[] = {0x3f808000u, 0x3f818000u, 0x3f808001u, 0xbf817fffu,
                           0x3fffffffu, 0x00000001u, 0x7fc00001u, 0xc0008000u};
  for (int i = 0; i < kCount; ++i)
    args.parameter.as<float>()[i] = std::bit_cast<float>(bits[i % 8]);
  on_every_target([&] {
    adamw(ctx, all);
    const uint16_t expected[] = {0x3f80, 0x3f82, 0x3f81, 0xbf81, 0x4000, 0, 0x7fc0, 0xc000};
    for (int i = 0; i < kCount; ++i) {
      EXPECT_EQ(args.low.as<BFloat16>()[i].bits, expected[i % 8]) << i;
    }
  });
}

TEST_F(AdamWTest, FirstStepIsTheLearningRate) {  // m and v start at 0: what the corrections are for
  step = {0.25, 0.9, 0.99, 1e-18, 0, 1};
  const float gradients[] = {1e-10f, -1e-3f, 1, -1e10f, 0};
  const TensorView gradient = make({5}), parameter = make({5}), m = make({5}), v = make({5});
  std::copy_n(gradients, 5, gradient.as<float>());
  on_every_target([&] {
    for (const TensorView& view : {parameter, m, v}) std::fill_n(view.as<float>(), 5, 0.0f);
    adamw(ctx, make_forward({{parameter, gradient, m, v, {}}}));
    const float* p = parameter.as<float>();
    EXPECT_NEAR(p[0], -0.25, 1e-6);
    EXPECT_NEAR(p[1], 0.25, 1e-6);
    EXPECT_NEAR(p[2], -0.25, 1e-6);
    EXPECT_NEAR(p[3], 0.25, 1e-6);
    EXPECT_EQ(p[4], 0);  // 0 / (0 + epsilon), not NaN
  });
}

TEST_F(AdamWTest, DecayAloneShrinks) {
  step = {0.5, 0.9, 0.99, 1e-18, 0, 1};
  const TensorView zero = make({3}), parameter = make({3});
  const TensorView m = make({3}), v = make({3});
  for (const TensorView& view : {zero, m, v}) std::fill_n(view.as<float>(), 3, 0.0f);
  std::fill_n(parameter.as<float>(), 3, 8.0f);
  adamw(ctx, make_forward({{parameter, zero, m, v, {}, 0.5f, 0.5f}}));
  EXPECT_EQ(elements(parameter), std::vector<double>(3, 7.0));
}

TEST_F(AdamWTest, StaysWithTheDefinitionForManySteps) {
  constexpr int64_t kCount = 37;
  AdamWForward all = make_forward(Shape{kCount});
  const AdamWTensor& args = all.tensors[0];
  step = {0.001, 0.9, 0.999, 1e-18, 0, 0};
  for (const TensorView& view : {args.m, args.v}) std::fill_n(view.as<float>(), kCount, 0.0f);
  Shadow<AdamWForward> shadow(all, DType::kF64);
  const AdamWTensor& exact = shadow.args.tensors[0];
  Random numbers(5);
  for (step.step = 1; step.step <= 200; ++step.step) {
    for (int64_t i = 0; i < kCount; ++i) {
      const auto x = static_cast<float>(numbers.normal() + 0.5);
      args.gradient.as<float>()[i] = x;
      exact.gradient.as<double>()[i] = x;
    }
    cpu::adamw_forward(all, ctx);
    ref::adamw_forward<double>(shadow.args);
  }
  for (int64_t i = 0; i < kCount; ++i) {
    EXPECT_NEAR(element(args.parameter, i), element(exact.parameter, i), 1e-5);
  }
}

TEST_F(AdamWTest, ChecksItself) {
  ctx.checker = &checker;
  adamw(ctx, make_forward(Shape{7, 5}, true));
  EXPECT_EQ(checker.checked, 1);
}

TEST_F(AdamWTest, RefusesOtherSizes) {
  AdamWForward args = make_forward(Shape{7}, true);
  args.tensors[0].low.shape = {6};
  EXPECT_THROW(adamw(ctx, args), Error);
  args = make_forward(Shape{7});
  args.tensors[0].v.shape = {8};
  EXPECT_THROW(adamw(ctx, args), Error);
}

TEST_F(AdamWTest, GpuTakesThousandsOfTensors) {
  SKIP_WITHOUT_GPU();
  for (const bool all_aligned : {true, false}) {
    aligned = all_aligned;
    std::vector<AdamWTensor> tensors;
    for (int64_t i = 0; i < 1700; ++i) {
      tensors.push_back(make_tensor({i % 37}, i % 3 == 0));
      tensors.back().rate_multiplier = static_cast<float>(i % 4);
    }
    tensors.push_back(make_tensor({70001}, true));
    tensors.push_back(make_tensor({3, 8192}));
    EXPECT_CUDA_FORWARD(adamw, make_forward(tensors, 3));
  }
}

TEST_F(AdamWTest, GpuRoundsToNearestEven) {
  SKIP_WITHOUT_GPU();
  const AdamWForward args = make_forward(Shape{1001}, true);
  EXPECT_CUDA_FORWARD(adamw, args);
  const AdamWTensor& t = args.tensors[0];
  for (int64_t i = 0; i < 1001; ++i) {
    EXPECT_EQ(t.low.as<BFloat16>()[i].bits, to_bfloat16(t.parameter.as<float>()[i]).bits);
  }
}

TEST_F(AdamWTest, GpuChangesNothingForANormThatIsNotFinite) {
  SKIP_WITHOUT_GPU();
  for (const double norm : {std::nan(""), HUGE_VAL}) {
    const AdamWForward args = make_forward({make_tensor({50}), make_tensor({20000})}, norm);
    const std::vector<double> before = elements(args.tensors[1].parameter);
    EXPECT_CUDA_FORWARD(adamw, args);
    EXPECT_EQ(elements(args.tensors[1].parameter), before);
  }
}

}  // namespace
}  // namespace rookery
