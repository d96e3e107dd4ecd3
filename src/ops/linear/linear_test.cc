#include "checking/operator_test.h"
#include "ops/linear/linear_ref.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
namespace {

class LinearTest : public OperatorTest {
 protected:
  LinearForward make_forward(int64_t rows, int64_t inputs, int64_t outputs, bool residual,
                             DType dtype = DType::kF32) {
    LinearForward forward{random({rows, inputs}),
                          random({outputs, inputs}, 1, 0, dtype),
                          residual ? random({rows, outputs}) : TensorView{},
                          make({rows, outputs}),
                          {}};
    forward.low_x = low_copy(ctx, forward.x, forward.weight);
    return forward;
  }
};

TEST_F(LinearTest, ForwardMatchesDefinition) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(name_of(dtype));
    for (const int64_t rows : {0, 1, 3, 5, 8, 9, 30}) {  // both sides of kFewRows
      for (const int64_t width : {1, 17, 64, 100}) {
        const LinearForward args = make_forward(rows, width, 2 * width + 3, rows % 2 == 1, dtype);
        // A GPU takes activations of the weights' type only.
        dtype == DType::kF32 ? EXPECT_FORWARD(linear, args) : EXPECT_CPU_FORWARD(linear, args);
      }
    }
  }
}

TEST_F(LinearTest, AGroupIsItsParts) {
  for (const bool deterministic : {false, true}) {
    ctx.deterministic = deterministic;
    for (const int64_t rows : {0, 1, 4, 9, 20}) {
      for (const int count : {1, 2, 5, 8}) {
        LinearGroupForward group{count, {}};
        for (int i = 0; i < count; ++i) {
          group.part[i] = make_forward(rows, 33 + 7 * (i % 2), 7 + 83 * (i % 3), false);
        }
        EXPECT_FORWARD(linear_group, group);
      }
    }
  }
}

TEST_F(LinearTest, AGroupMayMixFewRowsAndMany) {
  EXPECT_FORWARD(
      linear_group,
      (LinearGroupForward{2, {make_forward(3, 40, 9, false), make_forward(20, 33, 300, false)}}));
}

TEST_F(LinearTest, AGroupHasOneToEightLayers) {
  const LinearPair pair{Tensor{random({2, 4})}, Weight{Tensor{random({3, 4})}, {}}};
  EXPECT_EQ(linear_group(ctx, {pair, pair, pair, pair, pair, pair, pair, pair}).size(), 8u);
  EXPECT_THROW(linear_group(ctx, {pair, pair, pair, pair, pair, pair, pair, pair, pair}), Error);
  EXPECT_THROW(linear_group(ctx, {}), Error);
}

// Sizes at which the cut into panels leaves one of them small or empty.
TEST_F(LinearTest, PanelsOfEverySizeMatchDefinition) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {47, 72, 97, 145}) {
      EXPECT_CPU_FORWARD(linear, make_forward(rows, 230, 40, false, dtype));
      EXPECT_CPU_FORWARD(linear, make_forward(40, 230, rows, false, dtype));
    }
  }
}

// More than one block of every dimension of the tiles, and more than one panel.
TEST_F(LinearTest, TilesMatchDefinitionBeyondOneBlock) {
  ctx.deterministic = true;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    EXPECT_CPU_FORWARD(linear, make_forward(101, 300, 530, true, dtype));
  }
}

TEST_F(LinearTest, DeterministicRowsDoNotDependOnTheBatch) {
  ctx.deterministic = true;
  const LinearForward all = make_forward(40, 70, 90, false);
  cpu::linear_forward(all, ctx);
  for (const int64_t row : {0, 13, 39}) {
    LinearForward one = all;
    one.x = {all.x.as<float>() + row * 70, DType::kF32, {1, 70}};
    one.y = make({1, 90});
    cpu::linear_forward(one, ctx);
    EXPECT_EQ(std::memcmp(one.y.data, all.y.as<float>() + row * 90, 90 * sizeof(float)), 0);
  }
}

TEST_F(LinearTest, GradientsMatchComplexStep) {
  for (const bool deterministic : {false, true}) {
    ctx.deterministic = deterministic;
    for (const bool accumulate : {false, true}) {
      for (const int64_t rows : {2, 11}) {
        const LinearForward forward = make_forward(rows, 7, 9, true);
        cpu::linear_forward(forward, ctx);
        const LinearBackward backward{forward,
                                      random({rows, 9}),
                                      gradient({rows, 7}, accumulate),
                                      gradient({9, 7}, accumulate),
                                      gradient({rows, 9}, accumulate),
                                      {}};
        EXPECT_BACKWARD(linear, backward);
      }
    }
  }
}

TEST_F(LinearTest, Bfloat16GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    const LinearForward forward = make_forward(19, 9, 11, false, DType::kBF16);
    cpu::linear_forward(forward, ctx);
    LinearBackward backward{
        forward, random({19, 11}), gradient({19, 9}, accumulate), gradient({11, 9}, accumulate), {},
        {}};
    backward.low_dy = low_copy(ctx, backward.dy, forward.weight);
    EXPECT_CPU_BACKWARD(linear, backward);
  }
}

// Sizes of products on a GPU, and its types: bfloat16 with or without a float32 residual stream.
TEST_F(LinearTest, GpuProductsMatchDefinition) {
  SKIP_WITHOUT_GPU();
  const auto narrow = [&](const Shape& shape) { return arena.make(shape, DType::kBF16); };
  const auto numbers = [&](const Shape& shape, DType dtype) {
    const TensorView odd = random(shape, 1, 0, dtype);  // may begin off a boundary
    const TensorView even = arena.make(shape, dtype);
    std::memcpy(even.data, odd.data, odd.bytes());
    return even;
  };
  // Of inputs: several times what the kernel for few rows takes at once, and a part of it.
  for (const auto& [residual, inputs] : {std::pair{false, 256}, {true, 256}, {true, 1096}}) {
    for (const int64_t rows : {1, 2, 4, 7, 8, 9, 16, 17, 64, 130}) {
      for (const int64_t outputs : {8, 72, 384}) {
        const LinearForward wide{numbers({rows, inputs}, DType::kF32),
                                 numbers({outputs, inputs}, DType::kF32),
                                 residual ? numbers({rows, outputs}, DType::kF32) : TensorView{},
                                 make({rows, outputs}),
                                 {}};
        EXPECT_CUDA_FORWARD(linear, wide);
        LinearForward low = wide;
        low.x = numbers({rows, inputs}, DType::kBF16);
        low.weight = numbers({outputs, inputs}, DType::kBF16);
        if (!residual) low.y = narrow({rows, outputs});
        EXPECT_CUDA_FORWARD(linear, low);
        for (const int count : {2, 8}) {
          LinearGroupForward group{count, {}};
          for (int i = 0; i < count; ++i) {
            group.part[i] = low;
            group.part[i].residual = {};
            if (i > 0) group.part[i].y = narrow({rows, outputs});
          }
          EXPECT_CUDA_FORWARD(linear_group, group);
        }
      }
    }
  }
}

TEST_F(LinearTest, GpuBfloat16GradientsMatchComplexStep) {
  SKIP_WITHOUT_GPU();
  const auto numbers = [&](const Shape& shape, DType dtype) {
    const TensorView odd = random(shape, 1, 0, dtype), even = arena.make(shape, dtype);
    std::memcpy(even.data, odd.data, odd.bytes());
    return even;
  };
  for (const bool accumulate : {false, true}) {
    for (const bool residual : {false, true}) {
      const DType y = residual ? DType::kF32 : DType::kBF16;
      const LinearForward forward{numbers({24, 16}, DType::kBF16),
                                  numbers({32, 16}, DType::kBF16),
                                  residual ? numbers({24, 32}, y) : TensorView{},
                                  arena.make({24, 32}, y),
                                  {}};
      LinearBackward backward{forward, numbers({24, 32}, y), {}, {}, {}, {}};
      static_cast<TensorView&>(backward.dx) = numbers({24, 16}, DType::kBF16);
      static_cast<TensorView&>(backward.dweight) = numbers({32, 16}, DType::kF32);
      if (residual) static_cast<TensorView&>(backward.dresidual) = numbers({24, 32}, y);
      backward.dx.accumulate = backward.dweight.accumulate = backward.dresidual.accumulate =
          accumulate;
      EXPECT_CUDA_BACKWARD(linear, backward);
    }
  }
}

TEST_F(LinearTest, RefusesAWeightOfAnotherWidth) {
  const Tensor x{random({2, 4})};
  EXPECT_THROW(linear(ctx, x, Weight{Tensor{random({3, 5})}, {}}), Error);
}

}  // namespace
}  // namespace rookery
