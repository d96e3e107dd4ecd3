#include <limits>
#include <vector>

#include "checking/operator_test.h"
#include "ops/global_norm/global_norm_ref.h"

namespace rookery {
namespace {

class GlobalNormTest : public OperatorTest {
 protected:
  std::vector<TensorView> make_gradients(const std::vector<int64_t>& counts, double scale = 1) {
    std::vector<TensorView> gradients;
    for (const int64_t count : counts) gradients.push_back(random({count}, scale));
    return gradients;
  }
  double norm_of(std::span<const TensorView> gradients) {
    return element(global_norm(ctx, gradients), 0);
  }
  // Scratch and result at odd places of the test's own.
  GlobalNormForward make_forward(const std::vector<int64_t>& counts, double scale = 1) {
    GlobalNormForward args{make_gradients(counts, scale), {}, arena.make({1}, DType::kF64)};
    const int64_t chunks = args.count() / GlobalNormForward::kChunk + 1;
    args.partial_sums = arena.make({chunks}, DType::kF64);
    return args;
  }
};

constexpr int64_t kChunk = GlobalNormForward::kChunk;

TEST_F(GlobalNormTest, ForwardMatchesDefinition) {
  EXPECT_FORWARD(global_norm, make_forward({}));
  for (const int64_t count : {0, 1, 2, 7, 16, 33, 64, 127}) {
    EXPECT_FORWARD(global_norm, make_forward({count}));
  }
  EXPECT_FORWARD(global_norm, make_forward({0, 3, 0, 0, 100, 1, 0}));
  EXPECT_FORWARD(global_norm, make_forward({kChunk}));
  EXPECT_FORWARD(global_norm, make_forward({kChunk - 1, 2, kChunk, 3 * kChunk + 5, 0, 17}));
}

TEST_F(GlobalNormTest, ReachesBeyondTheSquaresOfFloats) {
  EXPECT_FORWARD(global_norm, make_forward({1000}, 1e25));
  const std::vector<TensorView> small = make_gradients({1000}, 1e-25);
  const double norm = norm_of(small);
  EXPECT_GT(norm, 0.9e-25 * std::sqrt(1000));
  EXPECT_LT(norm, 1.1e-25 * std::sqrt(1000));
}

TEST_F(GlobalNormTest, DoesNotDependOnTheNumberOfThreads) {
  const std::vector<TensorView> gradients = make_gradients({5, 7 * kChunk / 2, 999, 2 * kChunk});
  const double expected = norm_of(gradients);
  for (const int threads : {1, 2, 7}) {
    ThreadPool other(threads);
    ctx.pool = &other;
    EXPECT_EQ(norm_of(gradients), expected);
  }
  ctx.pool = &pool;
}

TEST_F(GlobalNormTest, ChecksItself) {
  ctx.checker = &checker;
  const std::vector<TensorView> gradients = make_gradients({3, 50});
  double squares = 0;
  for (const TensorView& gradient : gradients) {
    squares += std::pow(norm(elements(gradient)), 2);
  }
  EXPECT_NEAR(norm_of(gradients), std::sqrt(squares), 1e-12);
  EXPECT_EQ(checker.checked, 1);
}

TEST_F(GlobalNormTest, ShowsWhatIsNotFinite) {
  std::vector<TensorView> gradients = make_gradients({3, 50});
  gradients[1].as<float>()[49] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(norm_of(gradients), std::numeric_limits<double>::infinity());
  gradients[1].as<float>()[3] = std::nanf("");
  EXPECT_TRUE(std::isnan(norm_of(gradients)));
}

TEST_F(GlobalNormTest, RefusesOtherTypes) {
  const std::vector<TensorView> gradients{random({3}, 1, 0, DType::kBF16)};
  EXPECT_THROW(global_norm(ctx, gradients), Error);
}

TEST_F(GlobalNormTest, RunsByDefinitionInEitherType) {
  ctx.device = Device::kRef;
  for (const DType dtype : {DType::kF64, DType::kC128}) {
    ctx.dtype = dtype;
    const TensorView x = arena.make({2}, dtype);
    if (dtype == DType::kF64) {
      x.as<double>()[0] = 3, x.as<double>()[1] = 4;
    } else {
      x.as<std::complex<double>>()[0] = 3, x.as<std::complex<double>>()[1] = 4;
    }
    EXPECT_EQ(norm_of({&x, 1}), 5);
  }
}

TEST_F(GlobalNormTest, PlanningReadsNothingAndCountsTheScratch) {
  Arena planning(MemoryKind::kPlan);
  ctx.arena = &planning;
  ctx.device = Device::kMeta;
  const std::vector<TensorView> gradients{{nullptr, DType::kF32, {1024 * kChunk}}};
  global_norm(ctx, gradients);
  EXPECT_GE(planning.peak(), 1024 * 8);
}

TEST_F(GlobalNormTest, GpuTakesThousandsOfTensors) {
  SKIP_WITHOUT_GPU();
  std::vector<int64_t> counts;
  for (int64_t i = 0; i < 3300; ++i) counts.push_back(i % 23);
  counts[5] = 50001;
  counts[3299] = 40000;
  double first = 0;
  for (const bool all_aligned : {true, false}) {
    aligned = all_aligned;
    const GlobalNormForward args = make_forward(counts);
    EXPECT_CUDA_FORWARD(global_norm, args);
    first = element(args.norm, 0);
    EXPECT_CUDA_FORWARD(global_norm, args);
    EXPECT_EQ(element(args.norm, 0), first) << "another run has other bits";
  }
}

TEST_F(GlobalNormTest, GpuReachesBeyondTheSquaresOfFloats) {
  SKIP_WITHOUT_GPU();
  for (const double scale : {1e25, 1e-25}) {
    aligned = !aligned;
    GlobalNormForward args = make_forward({1000}, scale);
    const double expected = norm_of(args.gradients);
    EXPECT_CUDA_FORWARD(global_norm, args);
    EXPECT_NEAR(element(args.norm, 0) / expected, 1, 1e-12);
  }
}

TEST_F(GlobalNormTest, GpuShowsWhatIsNotFinite) {
  SKIP_WITHOUT_GPU();
  GlobalNormForward args = make_forward({3, 50});
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    args.gradients[1].as<float>()[49] = value;
    const OnDevice<GlobalNormForward> there(args);
    const TensorView result = global_norm(device_context(), there.args.gradients);
    device_context().wait();
    const double norm = element(result, 0);
    EXPECT_FALSE(std::isfinite(norm));
    EXPECT_EQ(std::isnan(norm), std::isnan(value));
  }
}

}  // namespace
}  // namespace rookery
