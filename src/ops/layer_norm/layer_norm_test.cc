#include "core/operator_test.h"
#include "ops/layer_norm/layer_norm_ref.h"

namespace rookery {
namespace {

class LayerNormTest : public OperatorTest {
 protected:
  LayerNormForward make_forward(int64_t rows, int64_t width, double offset = 0.5) {
    return {random({rows, width}, 2, offset),
            random({width}, 0.5, 1),
            random({width}),
            1e-5f,
            make({rows, width}),
            make({rows, 2})};
  }
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

}  // namespace
}  // namespace rookery
