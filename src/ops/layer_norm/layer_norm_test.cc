#include "checking/operator_test.h"
#include "ops/layer_norm/layer_norm_ref.h"

namespace rookery {
namespace {

class LayerNormTest : public OperatorTest {
 protected:
  LayerNormForward make_forward(int64_t rows, int64_t width, double offset = 0.5,
                                DType x = DType::kF32, DType y = DType::kF32) {
    return {random({rows, width}, 2, offset, x),
            random({width}, 0.5, 1),
            random({width}),
            1e-5f,
            make({rows, width}, y),
            make({rows, 2})};
  }
  // On the GPU, with and without what is there, all gradients or one alone.
  void expect_gradients(const LayerNormForward& f) {
    const Shape& shape = f.x.shape;
    const TensorView dy = random(shape, 1, 0, f.y.dtype),
                     scratch = make({ctx.threads(), 2, shape[1]});
    for (const bool accumulate : {false, true}) {
      EXPECT_CUDA_BACKWARD_LIKE_CPU(
          layer_norm, (LayerNormBackward{f, dy, gradient(shape, accumulate, f.x.dtype),
                                         gradient({shape[1]}, accumulate),
                                         gradient({shape[1]}, accumulate), scratch}));
    }
    EXPECT_CUDA_BACKWARD_LIKE_CPU(
        layer_norm, (LayerNormBackward{f, dy, gradient(shape, false, f.x.dtype), {}, {}, scratch}));
    EXPECT_CUDA_BACKWARD_LIKE_CPU(
        layer_norm, (LayerNormBackward{f, dy, {}, {}, gradient({shape[1]}, false), scratch}));
  }
  static constexpr std::pair<DType, DType> kTypes[] = {
      {DType::kF32, DType::kF32}, {DType::kF32, DType::kBF16}, {DType::kBF16, DType::kBF16}};
};

TEST_F(LayerNormTest, ForwardMatchesDefinition) {
  for (const int64_t rows : {0, 1, 2, 33}) {
    for (const int64_t width : {1, 5, 16, 33, 128}) {
      EXPECT_FORWARD(layer_norm, make_forward(rows, width));
    }
  }
}

TEST_F(LayerNormTest, ForwardKeepsDigitsFarFromZero) {
  // A mean of 30 deviations costs five bits of the difference, and the tolerance knows only the
  // result.
  LayerNormForward args = make_forward(4, 48, 60);
  CheckedForward<LayerNormForward> checked(args);
  cpu::layer_norm_forward(args, ctx);
  EXPECT_NO_THROW(checked.compare(checker, "layer_norm", args, &ref::layer_norm_forward<double>));
}

TEST_F(LayerNormTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const int64_t width : {3, 16, 21}) {
      const LayerNormForward forward = make_forward(7, width);
      cpu::layer_norm_forward(forward, ctx);
      const LayerNormBackward backward{forward,
                                       random({7, width}),
                                       gradient({7, width}, accumulate),
                                       gradient({width}, accumulate),
                                       gradient({width}, accumulate),
                                       make({ctx.threads(), 2, width})};
      EXPECT_BACKWARD(layer_norm, backward);
    }
  }
}

TEST_F(LayerNormTest, GpuHasWidthsAndTypesOfItsOwn) {
  SKIP_WITHOUT_GPU();
  // Rows in registers of a warp, of a block, in memory; full and partly filled.
  for (const auto& [x, y] : kTypes) {
    for (const int64_t width : {8, 37, 768, 1000, 1032, 2560, 4096, 8192, 8200}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        const LayerNormForward f = make_forward(5, width, 0.5, x, y);
        EXPECT_CUDA_FORWARD_LIKE_CPU(layer_norm, f);
        expect_gradients(f);
      }
    }
  }
}

TEST_F(LayerNormTest, GpuSumsOverManyRows) {
  SKIP_WITHOUT_GPU();
  aligned = true;
  for (const auto& [x, y] : kTypes) {
    expect_gradients(make_forward(3001, 64, 0.5, x, y));
    expect_gradients(make_forward(601, 1040, 0.5, x, y));
    expect_gradients(make_forward(601, 13, 0.5, x, y));
    expect_gradients(make_forward(0, 64, 0.5, x, y));
  }
}

}  // namespace
}  // namespace rookery
