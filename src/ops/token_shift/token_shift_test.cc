#include "checking/operator_test.h"
#include "ops/token_shift/token_shift_ref.h"

namespace rookery {
namespace {

class TokenShiftTest : public OperatorTest {
 protected:
  // Sequences of 3, 0, 1 and `rest` rows; the second starts from nothing.
  TokenShiftForward make_forward(int count, int64_t rest, int64_t width, bool with_state,
                                 DType dtype = DType::kF32) {
    offsets_ = {0, 3, 3, 4, 4 + rest};
    TokenShiftForward g;
    g.count = count;
    g.sequences = {4, offsets_.data(), slot_in_.data(), slot_out_.data()};
    g.x = random({4 + rest, width}, 1, 0, dtype);
    for (int i = 0; i < count; ++i) {
      g.mix[i] = random({width});
      g.y[i] = make(g.x.shape, dtype);
    }
    if (with_state) g.last_in = state(4, width), g.last_out = state(4, width);
    return g;
  }
  TokenShiftBackward make_backward(const TokenShiftForward& f, bool accumulate) {
    const DType dtype = f.x.dtype;
    TokenShiftBackward g{.forward = f, .dx = gradient(f.x.shape, accumulate, dtype)};
    for (int i = 0; i < f.count; ++i) {
      g.dmix[i] = gradient({f.x.cols()}, accumulate);
      if (i != 1) g.dy[i] = random(f.x.shape, 1, 0, dtype);
    }
    if (f.last_in) g.dlast_out = state(4, f.x.cols()), g.dlast_in = state(4, f.x.cols());
    g.partial_sums = make({ctx.threads(), f.count, f.x.cols()});
    return g;
  }
  std::vector<int64_t> offsets_, slot_in_{2, -1, 0, 1}, slot_out_{0, 1, 3, 2};
};

TEST_F(TokenShiftTest, ForwardMatchesDefinition) {
  for (const int64_t width : {1, 16, 37}) {
    EXPECT_FORWARD(token_shift, make_forward(3, 0, width, true));
    EXPECT_FORWARD(token_shift, make_forward(2, 40, width, true));
    EXPECT_FORWARD(token_shift, make_forward(6, 9, width, false));
  }
}

TEST_F(TokenShiftTest, StateMayBeUpdatedInPlace) {
  slot_out_ = slot_in_ = {2, 3, 0, 1};
  TokenShiftForward g = make_forward(1, 60, 5, true);
  g.last_out = g.last_in;
  CheckedForward<TokenShiftForward> checked(g);
  cpu::token_shift_forward(g, ctx);
  EXPECT_NO_THROW(checked.compare(checker, "token_shift", g, &ref::token_shift_forward<double>));
}

TEST_F(TokenShiftTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const bool with_state : {false, true}) {
      slot_in_ = {2, 3, 0, 1};
      const TokenShiftForward f = make_forward(3, 7, 9, with_state);
      cpu::token_shift_forward(f, ctx);
      TokenShiftBackward g{.forward = f, .dx = gradient(f.x.shape, accumulate)};
      for (int i = 0; i < 3; ++i) g.dmix[i] = gradient({9}, accumulate);
      g.dy[0] = random(f.x.shape), g.dy[2] = random(f.x.shape);  // nothing depends on y1
      if (with_state) g.dlast_out = state(4, 9), g.dlast_in = state(4, 9);
      g.partial_sums = make({ctx.threads(), 3, 9});
      EXPECT_BACKWARD(token_shift, g);
    }
  }
}

TEST_F(TokenShiftTest, GpuHasWidthsAndTypesOfItsOwn) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : {37, 768, 2056}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        for (const int count : {1, 2, 3, 5}) {
          for (const int64_t rest : {0, 30}) {
            for (const bool with_state : {false, true}) {
              slot_in_ = {2, with_state ? -1 : 3, 0, 1};
              const TokenShiftForward f = make_forward(count, rest, width, with_state, dtype);
              EXPECT_CUDA_FORWARD_LIKE_CPU(token_shift, f);
              EXPECT_CUDA_BACKWARD_LIKE_CPU(token_shift,
                                            make_backward(f, /*accumulate=*/rest == 0));
            }
          }
        }
      }
    }
  }
}

TEST_F(TokenShiftTest, GpuSumsOverManyRows) {
  SKIP_WITHOUT_GPU();
  aligned = true;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : {1, 64, 1000}) {
      const TokenShiftForward f = make_forward(3, 1501, width, true, dtype);
      EXPECT_CUDA_BACKWARD_LIKE_CPU(token_shift, make_backward(f, false));
    }
  }
}

TEST_F(TokenShiftTest, GpuUpdatesStatesInPlace) {
  SKIP_WITHOUT_GPU();
  slot_out_ = slot_in_ = {2, 3, 0, 1};
  for (const int64_t rest : {0, 60}) {
    TokenShiftForward f = make_forward(2, rest, 72, true);
    f.last_out = f.last_in;
    EXPECT_CUDA_FORWARD_LIKE_CPU(token_shift, f);
  }
}

}  // namespace
}  // namespace rookery
