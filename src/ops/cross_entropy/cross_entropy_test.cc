#include "checking/operator_test.h"
#include "ops/cross_entropy/cross_entropy_ref.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
namespace {

class CrossEntropyTest : public OperatorTest {
 protected:
  CrossEntropyForward make_forward(int64_t rows, int64_t width, int64_t vocabulary, int64_t chunk,
                                   DType dtype = DType::kF32) {
    CrossEntropyForward g;
    g.x = random({rows, width});
    g.weight = random({vocabulary, width}, 1, 0, dtype);
    targets_.resize(rows);
    for (int64_t t = 0; t < rows; ++t)
      targets_[t] = t % 5 == 3 ? -1 : static_cast<int32_t>((t * 7) % vocabulary);
    g.targets = targets_.data();
    g.scale = 1.0 / static_cast<double>(std::max<int64_t>(rows, 1));
    g.l2wrap = 0.1;
    g.losses = make({rows});
    g.objective = make({1});
    g.loss_sum = arena.make({1}, DType::kF64);
    g.logits = make({chunk, vocabulary});
    g.low_x = low_copy(ctx, {nullptr, DType::kF32, {chunk, width}}, g.weight);
    g.low_logits = low_copy(ctx, g.logits, g.weight);
    return g;
  }
  std::vector<int32_t> targets_;
};

TEST_F(CrossEntropyTest, ForwardMatchesDefinition) {
  for (const int64_t vocabulary : {1, 17, 256, 301}) {
    EXPECT_FORWARD(cross_entropy, make_forward(0, 8, vocabulary, 16));
    EXPECT_FORWARD(cross_entropy, make_forward(1, 8, vocabulary, 16));
    EXPECT_FORWARD(cross_entropy, make_forward(40, 33, vocabulary, 16));
  }
}

TEST_F(CrossEntropyTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    const CrossEntropyForward f = make_forward(21, 6, 19, 16);  // two chunks
    CrossEntropyBackward g{f, random({1}), gradient(f.x.shape, accumulate),
                           gradient(f.weight.shape, accumulate)};
    EXPECT_BACKWARD(cross_entropy, g);
  }
}

TEST_F(CrossEntropyTest, GpuBfloat16MatchesDefinition) {
  SKIP_WITHOUT_GPU();
  for (const int64_t vocabulary : {64, 301, 5003}) {
    CrossEntropyForward f = make_forward(50, 32, vocabulary, 32);  // two chunks
    const auto numbers = [&](const Shape& shape, double scale) {
      const TensorView odd = random(shape, scale, 0, DType::kBF16);
      const TensorView even = arena.make(shape, DType::kBF16);
      std::memcpy(even.data, odd.data, odd.bytes());
      return even;
    };
    f.x = numbers({50, 32}, 1), f.weight = numbers({vocabulary, 32}, 0.3);
    f.logits = arena.make({32, padded_rows(vocabulary)}, DType::kBF16);
    EXPECT_CUDA_FORWARD(cross_entropy, f);
    CrossEntropyBackward g{f, random({1}), {}, {}};
    static_cast<TensorView&>(g.dx) = numbers({50, 32}, 1);
    static_cast<TensorView&>(g.dweight) = arena.make({vocabulary, 32}, DType::kF32);
    g.dx.accumulate = false;
    // Along random directions: there are too many numbers for one by one.
    expect_cuda_backward<CrossEntropyBackward>(
        "cross_entropy", g, &ref::cross_entropy_forward<std::complex<double>>,
        ROOKERY_CUDA_KERNEL(cross_entropy_forward), ROOKERY_CUDA_KERNEL(cross_entropy_backward),
        /*every_scalar=*/false);
  }
}

TEST_F(CrossEntropyTest, Bfloat16GradientsMatchComplexStep) {
  const CrossEntropyForward f = make_forward(21, 6, 19, 16, DType::kBF16);
  CrossEntropyBackward g{f, random({1}), gradient(f.x.shape, false),
                         gradient(f.weight.shape, false)};
  EXPECT_CPU_BACKWARD(cross_entropy, g);
}

TEST_F(CrossEntropyTest, RefusesATargetOutsideTheVocabulary) {
  const int32_t target = 3;
  EXPECT_THROW(
      cross_entropy(ctx, Tensor{random({1, 4})}, Weight{Tensor{random({3, 4})}, {}}, &target, {}),
      Error);
}

}  // namespace
}  // namespace rookery
