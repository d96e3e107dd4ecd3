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
    // Where products round, the largest logit of a row may be another one; L2Wrap would jump.
    g.l2wrap = dtype == DType::kBF16 ? 0 : 0.1;
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
    f.l2wrap = 0;  // as in make_forward()
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

// Whole numbers at the sizes of real models. A row of x is a row of the head, whose logit is so far
// above all others that the softmax is 1 there and 0 elsewhere: every number is exact, on every
// path, so that not one bit may differ.
class CrossEntropyExactTest : public OperatorTest {
 protected:
  static constexpr int64_t kWidths[] = {768, 1096, 3072}, kRows[] = {1, 8, 17, 128};
  static constexpr int64_t kVocabulary = 41, kChunk = 48;
  static constexpr double kScale = 0.5, kUpstream = 2, kL2Wrap = 0x1p-12;

  struct Expected {
    std::vector<double> losses, dx, dweight;
    double objective = 0, loss_sum = 0;
  };
  // `logit` and `dlogit` are the types in which logits and their gradients are kept.
  static Expected expected_of(const CrossEntropyBackward& g, DType logit, DType dlogit) {
    const CrossEntropyForward& f = g.forward;
    const int64_t rows = f.x.rows(), width = f.x.cols();
    const std::vector<double> x = elements(f.x), w = elements(f.weight);
    const auto before = [](const GradView& view) {
      return view.accumulate ? elements(view) : std::vector<double>(view.count(), 0.0);
    };
    Expected e{std::vector<double>(rows, 0.0), std::vector<double>(g.dx.count(), 0.0),
               before(g.dweight)};
    for (int64_t t = 0; t < rows; ++t) {
      const int32_t target = f.targets[t];
      if (target < 0) continue;
      std::vector<double> z(kVocabulary, 0.0);
      for (int64_t j = 0; j < kVocabulary; ++j) {
        for (int64_t c = 0; c < width; ++c) z[j] += x[t * width + c] * w[j * width + c];
        z[j] = rounded(z[j], logit);
      }
      const auto top = std::max_element(z.begin(), z.end());
      const double largest = *top;
      for (auto it = z.begin(); it != z.end(); ++it) {
        EXPECT_TRUE(it == top || *it < largest - 200);
      }
      e.losses[t] = largest - z[target];
      e.loss_sum += e.losses[t];
      e.objective += kScale * (e.losses[t] + 0.5 * kL2Wrap * largest * largest);
      std::vector<double> dz(kVocabulary, 0.0);
      dz[top - z.begin()] += 1 + kL2Wrap * largest;
      dz[target] -= 1;
      for (int64_t j = 0; j < kVocabulary; ++j) {
        dz[j] = rounded(dz[j], dlogit);
        for (int64_t c = 0; c < width; ++c) {
          e.dx[t * width + c] += dz[j] * w[j * width + c];
          e.dweight[j * width + c] += dz[j] * x[t * width + c];
        }
      }
    }
    // The library of a GPU rounds a product before it adds it to what is there.
    const std::vector<double> dx = before(g.dx);
    for (size_t i = 0; i < dx.size(); ++i) e.dx[i] = rounded(e.dx[i], g.dx.dtype) + dx[i];
    return e;
  }
  static void expect_equal(const TensorView& actual, const std::vector<double>& expected) {
    const std::vector<double> values = elements(actual);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], rounded(expected[i], actual.dtype))
          << "element " << i << " of " << values.size();
    }
  }
  static void expect_all(const CrossEntropyBackward& g, const Expected& e, bool gradients) {
    expect_equal(g.forward.losses, e.losses);
    EXPECT_EQ(element(g.forward.objective, 0), static_cast<float>(e.objective));
    EXPECT_EQ(element(g.forward.loss_sum, 0), e.loss_sum);
    if (!gradients) return;
    {
      SCOPED_TRACE("dx");
      expect_equal(g.dx, e.dx);
    }
    SCOPED_TRACE("dweight");
    expect_equal(g.dweight, e.dweight);
  }
  CrossEntropyBackward make_backward(int64_t rows, int64_t width, bool accumulate,
                                     DType activations, DType weights) {
    CrossEntropyForward f;
    f.weight = whole_numbers({kVocabulary, width}, 4, weights);
    const std::vector<double> w = elements(f.weight);
    f.x = filled({rows, width}, activations,
                 [&](int64_t i) { return w[(i / width * 5 % kVocabulary) * width + i % width]; });
    targets_.resize(rows);
    for (int64_t t = 0; t < rows; ++t) {  // some right, most wrong, some masked
      targets_[t] = static_cast<int32_t>(t % 7 == 3 ? -1 : t * (t % 4 == 0 ? 5 : 3) % kVocabulary);
    }
    f.targets = targets_.data();
    f.scale = kScale, f.l2wrap = kL2Wrap;
    f.losses = make({rows}), f.objective = make({1}), f.loss_sum = make({1}, DType::kF64);
    f.logits = make({kChunk, padded_rows(kVocabulary)}, activations);
    CrossEntropyBackward g{.forward = f, .dobjective = make({1})};
    *g.dobjective.as<float>() = kUpstream;
    static_cast<TensorView&>(g.dx) = whole_numbers(f.x.shape, 9, activations);
    static_cast<TensorView&>(g.dweight) = whole_numbers(f.weight.shape, 9);
    g.dx.accumulate = g.dweight.accumulate = accumulate;
    return g;
  }
  std::vector<int32_t> targets_;
};

TEST_F(CrossEntropyExactTest, Cpu) {
  for (const DType weights : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t rows : kRows) {
        for (const bool accumulate : {false, true}) {
          for (const bool deterministic : {false, true}) {
            SCOPED_TRACE(fmt::format("{} {} {} {} {}", name_of(weights), width, rows, accumulate,
                                     deterministic));
            ctx.deterministic = deterministic;
            CrossEntropyBackward g = make_backward(rows, width, accumulate, DType::kF32, weights);
            CrossEntropyForward& f = g.forward;
            f.logits = make({kChunk, kVocabulary});
            f.low_x = low_copy(ctx, {nullptr, DType::kF32, {kChunk, width}}, f.weight);
            f.low_logits = low_copy(ctx, f.logits, f.weight);
            const Expected e =
                expected_of(g, DType::kF32, f.low_logits ? DType::kBF16 : DType::kF32);
            cpu::cross_entropy_forward(f, ctx);
            expect_all(g, e, false);
            cpu::cross_entropy_backward(g, ctx);
            expect_all(g, e, true);
          }
        }
      }
    }
  }
}

TEST_F(CrossEntropyExactTest, Gpu) {
  SKIP_WITHOUT_GPU();
  const DeviceKernel<CrossEntropyForward> forward = ROOKERY_CUDA_KERNEL(cross_entropy_forward);
  const DeviceKernel<CrossEntropyBackward> backward = ROOKERY_CUDA_KERNEL(cross_entropy_backward);
  aligned = true;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t rows : kRows) {
        for (const bool accumulate : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", name_of(type), width, rows, accumulate));
          const CrossEntropyBackward g = make_backward(rows, width, accumulate, type, type);
          const Expected e = expected_of(g, type, type);
          OnDevice<CrossEntropyBackward> there(g);
          forward(there.args.forward, device_context(type));
          device_context().wait();
          there.fetch();
          expect_all(g, e, false);
          backward(there.args, device_context(type));
          device_context().wait();
          there.fetch();
          expect_all(g, e, true);
        }
      }
    }
  }
}

TEST_F(CrossEntropyTest, RefusesATargetOutsideTheVocabulary) {
  const int32_t target = 3;
  EXPECT_THROW(
      cross_entropy(ctx, Tensor{random({1, 4})}, Weight{Tensor{random({3, 4})}, {}}, &target, {}),
      Error);
}

}  // namespace
}  // namespace rookery
