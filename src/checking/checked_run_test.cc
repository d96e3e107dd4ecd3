// The checker itself, with wrong answers: each must be noticed.
#include "checking/checked_run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rookery {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(CompareElements, AcceptsRounding) {
  EXPECT_NO_THROW(compare_elements("y", {1.0, -5.0 + 1e-9}, {1.0, -5.0}, 1e-8));
  EXPECT_NO_THROW(compare_elements("y", {-kInfinity}, {-kInfinity}, 1e-8));
}

TEST(CompareElements, NoticesWrongAnswers) {
  EXPECT_THROW(compare_elements("y", {-1, -5}, {-1, -1}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {-1, -1}, {-1, -5}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {1, kNan}, {1, 1}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {1, 1}, {1, kNan}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {kInfinity}, {1}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {kInfinity}, {-kInfinity}, 1e-6), Error);
  EXPECT_THROW(compare_elements("y", {1}, {1, 2}, 1e-6), Error);
}

// y = x^2, z = state^2 + x, with a backward that can be told to be wrong.
struct SquareForward {
  TensorView x, y;
  StateView in, out;
  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.output("y", y);
    v.state("s", in, out);
  }
  double terms() const { return 1; }
};
struct SquareBackward {
  SquareForward forward;
  TensorView dy;
  GradView dx;
  StateView dout, din;
  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
    v.state_upstream("s", dout);
    v.state_gradient("s", din);
  }
};
template <class T>
void square_ref(const SquareForward& g) {
  for (int64_t i = 0; i < g.x.count(); ++i) {
    const T x = g.x.as<T>()[i], s = g.in.slot<T>(0)[i];
    g.y.as<T>()[i] = x * x;
    g.out.slot<T>(0)[i] = s * s + x;
  }
}

class CheckedRunTest : public ::testing::Test {
 protected:
  // Returns whether the backward, its gradients changed by these, passes both ways of comparing.
  bool passes(float dx_error, float din_error, bool every_scalar) {
    float x[3] = {1, 2, 3}, y[3], s[3] = {4, 5, 6}, out[3], dy[3] = {1, -1, 2}, dout[3] = {3, 1, 2};
    float dx[3] = {10, 10, 10}, din[3] = {};
    const auto state = [](float* p) { return StateView{p, DType::kF32, 1, 3, 3}; };
    SquareBackward args{{{x, DType::kF32, {3}}, {y, DType::kF32, {3}}, state(s), state(out)},
                        {dy, DType::kF32, {3}},
                        {},
                        state(dout),
                        state(din)};
    static_cast<TensorView&>(args.dx) = {dx, DType::kF32, {3}};
    args.dx.accumulate = true;
    CheckedBackward<SquareBackward, SquareForward> checked(args);
    for (int i = 0; i < 3; ++i) {
      dx[i] += dy[i] * 2 * x[i] + dout[i];
      din[i] = dout[i] * 2 * s[i];
    }
    dx[1] += dx_error;
    din[2] += din_error;
    try {
      checked.compare(checker_, "square", args, &square_ref<std::complex<double>>, every_scalar);
    } catch (const Error&) {
      return false;
    }
    return true;
  }
  Checker checker_;
};

TEST_F(CheckedRunTest, AcceptsRightGradients) {
  EXPECT_TRUE(passes(0, 0, true));
  EXPECT_TRUE(passes(0, 0, false));
}

TEST_F(CheckedRunTest, NoticesWrongGradients) {
  for (const bool every_scalar : {true, false}) {
    EXPECT_FALSE(passes(0.01f, 0, every_scalar));
    EXPECT_FALSE(passes(0, -0.01f, every_scalar));
    EXPECT_FALSE(passes(std::nanf(""), 0, every_scalar));
  }
}

TEST(CheckedForward, SubstituteWritesTheRoundedDefinition) {
  float x[2] = {3, 1.0f / 3}, s[4] = {2, 0.1f, 5, 6}, out[5] = {-1, -1, 7, 8, 9};
  BFloat16 y[2] = {};
  SquareForward args{{x, DType::kF32, {2}},
                     {y, DType::kBF16, {2}},
                     {s, DType::kF32, 1, 2, 2},
                     {out, DType::kF32, 1, 2, 3}};
  CheckedForward<SquareForward> checked(args);
  checked.substitute(args, &square_ref<double>);
  const double third = x[1], tenth = s[1];
  EXPECT_EQ(to_float(y[0]), 9);
  EXPECT_EQ(to_float(y[1]), to_float(to_bfloat16(static_cast<float>(third * third))));
  EXPECT_EQ(out[0], 7);
  EXPECT_EQ(out[1], static_cast<float>(tenth * tenth + third));
  EXPECT_EQ(out[2], 7) << "behind the slot";
}

}  // namespace
}  // namespace rookery
