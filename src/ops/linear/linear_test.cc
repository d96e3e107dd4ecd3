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

// Whole numbers at the sizes of real models: below 2^24 every sum is exact, in any order and on
// every path, so that not one bit may differ.
class LinearExactTest : public OperatorTest {
 protected:
  static constexpr int64_t kWidths[] = {768, 1096, 3072}, kRows[] = {1, 8, 17, 128};
  static constexpr int64_t kOutputs = 67;

  // a [m, k] times b [k, n], plus c [m, n] unless that is empty.
  static std::vector<double> product(int64_t m, int64_t n, int64_t k, auto a, auto b,
                                     const std::vector<double>& c = {}) {
    std::vector<double> sums(m * n);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = c.empty() ? 0 : c[i * n + j];
        for (int64_t l = 0; l < k; ++l) sum += a(i, l) * b(l, j);
        sums[i * n + j] = sum;
      }
    }
    return sums;
  }
  static auto rows_of(const std::vector<double>& values, int64_t width) {
    return [&values, width](int64_t i, int64_t j) { return values[i * width + j]; };
  }
  static auto columns_of(const std::vector<double>& values, int64_t width) {
    return [&values, width](int64_t i, int64_t j) { return values[j * width + i]; };
  }
  // Both to the bit, in the actual's type.
  static void expect_equal(const TensorView& actual, std::vector<double> expected) {
    for (double& x : expected) x = rounded(x, actual.dtype);
    const std::vector<double> values = elements(actual);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], expected[i]) << "element " << i << " of " << values.size();
    }
  }
  LinearForward make_forward(int64_t rows, int64_t width, bool residual, DType activations,
                             DType weights) {
    LinearForward g;
    g.x = whole_numbers({rows, width}, 3, activations);
    g.weight = whole_numbers({kOutputs, width}, 4, weights);
    if (residual) g.residual = whole_numbers({rows, kOutputs}, 100);
    g.y = make({rows, kOutputs}, residual ? DType::kF32 : activations);
    return g;
  }
  static std::vector<double> expected_of(const LinearForward& g) {
    const int64_t width = g.x.cols();
    const std::vector<double> x = elements(g.x), w = elements(g.weight);
    return product(g.x.rows(), kOutputs, width, rows_of(x, width), columns_of(w, width),
                   g.residual ? elements(g.residual) : std::vector<double>{});
  }
  LinearBackward make_backward(const LinearForward& f, bool accumulate, DType dy) {
    LinearBackward g{.forward = f, .dy = whole_numbers(f.y.shape, 2, dy)};
    const auto begin = [&](GradView& view, const TensorView& like, DType dtype) {
      static_cast<TensorView&>(view) = whole_numbers(like.shape, 50, dtype);
      view.accumulate = accumulate;
    };
    begin(g.dx, f.x, f.x.dtype);
    begin(g.dweight, f.weight, DType::kF32);
    if (f.residual) begin(g.dresidual, f.residual, DType::kF32);
    return g;
  }
  // Runs the backward and compares all gradients.
  template <class Run>
  void expect_gradients(const LinearBackward& g, Run run) {
    const LinearForward& f = g.forward;
    const int64_t rows = f.x.rows(), width = f.x.cols();
    const std::vector<double> x = elements(f.x), w = elements(f.weight), dy = elements(g.dy);
    const auto before = [](const GradView& view) {
      return view.accumulate ? elements(view) : std::vector<double>(view.count(), 0.0);
    };
    const std::vector<double> dx =
        product(rows, width, kOutputs, rows_of(dy, kOutputs), rows_of(w, width), before(g.dx));
    const std::vector<double> dweight = product(kOutputs, width, rows, columns_of(dy, kOutputs),
                                                rows_of(x, width), before(g.dweight));
    std::vector<double> dresidual;
    if (g.dresidual) {
      dresidual = before(g.dresidual);
      for (size_t i = 0; i < dy.size(); ++i) dresidual[i] += dy[i];
    }
    run(g);
    {
      SCOPED_TRACE("dx");
      expect_equal(g.dx, dx);
    }
    SCOPED_TRACE("dweight or dresidual");
    expect_equal(g.dweight, dweight);
    if (g.dresidual) expect_equal(g.dresidual, dresidual);
  }
};

TEST_F(LinearExactTest, Forward) {
  for (const DType weights : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t rows : kRows) {
        for (const bool residual : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", name_of(weights), width, rows, residual));
          LinearForward g = make_forward(rows, width, residual, DType::kF32, weights);
          const std::vector<double> expected = expected_of(g);
          for (const bool deterministic : {true, false}) {  // our own tiles, and what is fastest
            ctx.deterministic = deterministic;
            g.low_x = low_copy(ctx, g.x, g.weight);
            on_every_target([&] {
              cpu::linear_forward(g, ctx);
              expect_equal(g.y, expected);
            });
          }
        }
      }
    }
  }
}

TEST_F(LinearExactTest, Group) {
  for (const DType weights : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 17}) {
      LinearGroupForward group{.count = 3};
      std::vector<std::vector<double>> expected;
      for (int i = 0; i < 3; ++i) {
        group.part[i] = make_forward(rows, kWidths[i], false, DType::kF32, weights);
        group.part[i].low_x = low_copy(ctx, group.part[i].x, group.part[i].weight);
        expected.push_back(expected_of(group.part[i]));
      }
      on_every_target([&] {
        cpu::linear_group_forward(group, ctx);
        for (int i = 0; i < 3; ++i) expect_equal(group.part[i].y, expected[i]);
      });
    }
  }
}

TEST_F(LinearExactTest, Gradients) {
  for (const DType weights : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t rows : kRows) {
        for (const bool accumulate : {false, true}) {
          for (const bool deterministic : {true, false}) {
            SCOPED_TRACE(fmt::format("{} {} {} {} {}", name_of(weights), width, rows, accumulate,
                                     deterministic));
            ctx.deterministic = deterministic;
            LinearForward f = make_forward(rows, width, true, DType::kF32, weights);
            f.low_x = low_copy(ctx, f.x, f.weight);
            LinearBackward g = make_backward(f, accumulate, DType::kF32);
            g.low_dy = low_copy(ctx, g.dy, f.weight);
            expect_gradients(g, [&](const LinearBackward& b) { cpu::linear_backward(b, ctx); });
          }
        }
      }
    }
  }
}

TEST_F(LinearExactTest, Gpu) {
  SKIP_WITHOUT_GPU();
  const DeviceKernel<LinearForward> forward = ROOKERY_CUDA_KERNEL(linear_forward);
  const DeviceKernel<LinearGroupForward> group_forward = ROOKERY_CUDA_KERNEL(linear_group_forward);
  const DeviceKernel<LinearBackward> backward = ROOKERY_CUDA_KERNEL(linear_backward);
  aligned = true;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t rows : kRows) {
        for (const bool residual : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", name_of(type), width, rows, residual));
          const LinearForward g = make_forward(rows, width, residual, type, type);
          const std::vector<double> expected = expected_of(g);
          for (const bool deterministic : {true, false}) {
            OnDevice<LinearForward> there(g);
            Context& device = device_context(type);
            device.deterministic = deterministic;
            forward(there.args, device);
            device.deterministic = false;
            device_context().wait();
            there.fetch();
            expect_equal(g.y, expected);
          }
          if (!residual) {
            LinearGroupForward group{2, {g, g}};
            group.part[1].y = make(g.y.shape, type);
            OnDevice<LinearGroupForward> there(group);
            group_forward(there.args, device_context(type));
            device_context().wait();
            there.fetch();
            expect_equal(group.part[0].y, expected);
            expect_equal(group.part[1].y, expected);
          }
          for (const bool accumulate : {false, true}) {
            const LinearBackward b = make_backward(g, accumulate, g.y.dtype);
            expect_gradients(b, [&](const LinearBackward& args) {
              OnDevice<LinearBackward> there(args);
              backward(there.args, device_context(type));
              device_context().wait();
              there.fetch();
            });
          }
        }
      }
    }
  }
}

TEST_F(LinearTest, RefusesAWeightOfAnotherWidth) {
  const Tensor x{random({2, 4})};
  EXPECT_THROW(linear(ctx, x, Weight{Tensor{random({3, 5})}, {}}), Error);
}

}  // namespace
}  // namespace rookery
