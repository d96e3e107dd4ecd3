// The checker itself, with wrong answers: each must be noticed.
#include "checking/checked_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "checking/operator_test.h"
#include "ops/linear/linear_ref.h"

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

TEST(CompareRounded, KnowsWhatRoundingExplains) {
  const std::vector<double> expected = {1, -4, 2, 0.5};
  const auto passes = [&](double change, const Rounding& rounding) {
    std::vector<double> actual = expected;
    actual[3] += change;
    try {
      return !compare_rounded("y", actual, expected, rounding).refused;
    } catch (const Error&) {
      return false;
    }
  };
  const double largest = 4, rms = std::sqrt(21.25 / 4);
  // Each part of the tolerance alone: a little less passes, a little more does not.
  const Rounding sum{.terms = 900};
  const double of_sum = 8 * 0x1p-24 * 30 * largest + 0x1p-24 * 0.5;
  EXPECT_TRUE(passes(0.99 * of_sum, sum));
  EXPECT_FALSE(passes(1.01 * of_sum, sum));
  for (const auto& [dtype, unit] :
       {std::pair{DType::kF32, 0x1p-24}, {DType::kF16, 0x1p-11}, {DType::kBF16, 0x1p-8}}) {
    const Rounding own{.dtype = dtype};
    const double of_type = 8 * 0x1p-24 * largest + unit * 0.5;
    EXPECT_TRUE(passes(-0.99 * of_type, own));
    EXPECT_FALSE(passes(-1.01 * of_type, own));
  }
  const Rounding inner{.roundings = 4};
  const double of_inner = 8 * 0x1p-24 * largest + 0x1p-24 * 0.5 + 3 * 0x1p-8 * 2 * rms;
  EXPECT_TRUE(passes(0.99 * of_inner, inner));
  EXPECT_FALSE(passes(1.01 * of_inner, inner));
  const Rounding difference{.roundings = 1, .magnitude = 10};
  const double of_difference = 8 * 0x1p-24 * 10 + 0x1p-24 * 0.5 + 3 * 0x1p-8 * 10;
  EXPECT_TRUE(passes(0.99 * of_difference, difference));
  EXPECT_FALSE(passes(1.01 * of_difference, difference));
}

TEST(CompareRounded, RefusesWhatNothingCouldFail) {
  const std::vector<double> expected = {1, -1, 1, -1};
  // 3 * 2^-8 * magnitude is an eighth of 1 at a magnitude of 10.67.
  EXPECT_FALSE(
      compare_rounded("y", expected, expected, {.roundings = 1, .magnitude = 10.6}).refused);
  const Comparison loose =
      compare_rounded("y", expected, expected, {.roundings = 1, .magnitude = 10.8});
  EXPECT_TRUE(loose.refused);
  EXPECT_GT(loose.looseness, 0.125);
  Checker checker;
  note(checker, "op", "y", loose);
  EXPECT_EQ(checker.operators["op"].refused, 1);
  EXPECT_EQ(checker.operators["op"].compared, 0);
  checker.strict = true;
  EXPECT_THROW(note(checker, "op", "y", loose), Error);
  EXPECT_TRUE(compare_rounded("y", {1, 1}, {1, kNan}, {}).refused);
}

TEST(CompareRounded, ZerosAreExact) {
  EXPECT_EQ(compare_rounded("y", {0, -0.0}, {0, 0}, {}).worst, 0);
  EXPECT_THROW(compare_rounded("y", {0, 1e-300}, {0, 0}, {}), Error);
  // What is left of a difference says nothing.
  EXPECT_TRUE(compare_rounded("y", {0, 1e-7}, {0, 0}, {.magnitude = 1}).refused);
  EXPECT_THROW(compare_rounded("y", {0, kNan}, {0, 0}, {}), Error);
  EXPECT_EQ(compare_rounded("y", {}, {}, {}).worst, 0);
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

// A linear layer of 768 inputs whose answers are spoiled, in every type: what the rule must notice
// at real sizes.
class WrongAnswers : public OperatorTest {
 protected:
  static constexpr int64_t kRows = 12, kInputs = 768, kOutputs = 40;

  struct Types {
    const char* name;
    DType x, weight, y;
    bool rounded;  // activations, on the way into a product
  };
  static constexpr Types kTypes[] = {
      {"f32", DType::kF32, DType::kF32, DType::kF32, false},
      {"f16 weights", DType::kF32, DType::kF16, DType::kF32, false},
      {"bf16 weights", DType::kF32, DType::kBF16, DType::kF32, false},
      {"bf16 products", DType::kF32, DType::kBF16, DType::kF32, true},
      {"bf16", DType::kBF16, DType::kBF16, DType::kBF16, false},
      {"f16", DType::kF16, DType::kF16, DType::kF16, false},
  };
  using Spoil = std::function<void(std::vector<double>& values, int64_t columns)>;
  struct Mutant {
    const char* name;
    Spoil spoil;
  };
  const std::vector<Mutant> kSpoilt = {
      {"zeros", [](auto& y, int64_t) { std::fill(y.begin(), y.end(), 0.0); }},
      {"a flipped sign",
       [](auto& y, int64_t) {
         for (double& v : y) v = -v;
       }},
      {"doubled",
       [](auto& y, int64_t) {
         for (double& v : y) v *= 2;
       }},
      {"times a million",
       [](auto& y, int64_t) {
         for (double& v : y) v *= 1e6;
       }},
      {"two rows exchanged",
       [](auto& y, int64_t columns) {
         std::swap_ranges(y.begin() + columns, y.begin() + 2 * columns, y.begin() + 4 * columns);
       }},
  };

  // Sums over `k`, in steps of which each is rounded by `step`.
  template <class Step>
  static std::vector<double> products(int64_t rows, int64_t columns, int64_t terms,
                                      const std::function<double(int64_t, int64_t)>& a,
                                      const std::function<double(int64_t, int64_t)>& b, Step step) {
    std::vector<double> sums(rows * columns, 0.0);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t k = 0; k < terms; ++k) {
          double& sum = sums[i * columns + j];
          sum = step(sum + a(i, k) * b(k, j));
        }
      }
    }
    return sums;
  }

  LinearForward make_forward(const Types& types) {
    LinearForward g;
    g.x = random({kRows, kInputs}, 1, 0, types.x);
    g.weight = random({kOutputs, kInputs}, 1, 0, types.weight);
    g.y = make({kRows, kOutputs}, types.y);
    if (types.rounded) g.low_x = make({kRows, kInputs}, DType::kBF16);
    return g;
  }
};

TEST_F(WrongAnswers, OfAForwardAreNoticed) {
  for (const Types& types : kTypes) {
    SCOPED_TRACE(types.name);
    const LinearForward g = make_forward(types);
    const std::vector<double> x = elements(g.x), w = elements(g.weight);
    const DType inner = types.rounded ? DType::kBF16 : DType::kF32;
    const auto run = [&](int64_t terms, auto step) {
      return products(
          kRows, kOutputs, terms,
          [&](int64_t t, int64_t k) { return rounded(x[t * kInputs + k], inner); },
          [&](int64_t k, int64_t n) { return w[n * kInputs + k]; }, step);
    };
    const auto in_float = [](double sum) { return static_cast<double>(static_cast<float>(sum)); };
    const auto passes = [&](const std::vector<double>& values) {
      CheckedForward<LinearForward> checked(g);
      write(g.y, values);
      try {
        checked.compare(checker, "linear", g, &ref::linear_forward<double>);
        return ::testing::AssertionSuccess();
      } catch (const Error& error) {
        return ::testing::AssertionFailure() << error.what();
      }
    };
    const std::vector<double> right = run(kInputs, in_float);
    EXPECT_TRUE(passes(right));
    for (const Mutant& mutant : kSpoilt) {
      std::vector<double> wrong = right;
      mutant.spoil(wrong, kOutputs);
      EXPECT_FALSE(passes(wrong)) << mutant.name;
    }
    EXPECT_FALSE(passes(run(kInputs / 2, in_float))) << "half of K";
    EXPECT_FALSE(passes(run(kInputs - 8, in_float))) << "the last panel of K missing";
    EXPECT_FALSE(passes(run(kInputs, [](double sum) { return rounded(sum, DType::kBF16); })))
        << "accumulation in bfloat16";
  }
}

TEST_F(WrongAnswers, OfABackwardAreNoticed) {
  for (const Types& types : kTypes) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(types.name);
      const LinearForward f = make_forward(types);
      LinearBackward g{.forward = f, .dy = random({kRows, kOutputs}, 1, 0, types.y)};
      if (types.rounded) g.low_dy = make({kRows, kOutputs}, DType::kBF16);
      g.dx = gradient({kRows, kInputs}, accumulate, types.x);
      g.dweight = gradient({kOutputs, kInputs}, accumulate);
      const std::vector<double> x = elements(f.x), w = elements(f.weight), dy = elements(g.dy);
      const std::vector<double> dx_before = elements(g.dx), dweight_before = elements(g.dweight);
      const DType inner = types.rounded ? DType::kBF16 : DType::kF32;
      const auto in_float = [](double sum) { return static_cast<double>(static_cast<float>(sum)); };
      const auto low = [](double sum) { return rounded(sum, DType::kBF16); };
      const auto dx_of = [&](int64_t terms, auto step) {
        return products(
            kRows, kInputs, terms,
            [&](int64_t t, int64_t n) { return rounded(dy[t * kOutputs + n], inner); },
            [&](int64_t n, int64_t k) { return w[n * kInputs + k]; }, step);
      };
      const auto dweight_of = [&](int64_t terms, auto step) {
        return products(
            kOutputs, kInputs, terms,
            [&](int64_t n, int64_t t) { return rounded(dy[t * kOutputs + n], inner); },
            [&](int64_t t, int64_t k) { return rounded(x[t * kInputs + k], inner); }, step);
      };
      const auto passes = [&](const std::vector<double>& dx, const std::vector<double>& dweight) {
        write(g.dx, dx_before), write(g.dweight, dweight_before);
        CheckedBackward<LinearBackward, LinearForward> checked(g);
        const auto added = [&](const std::vector<double>& values,
                               const std::vector<double>& before) {
          std::vector<double> sum = values;
          for (size_t i = 0; accumulate && i < sum.size(); ++i) sum[i] += before[i];
          return sum;
        };
        write(g.dx, added(dx, dx_before)), write(g.dweight, added(dweight, dweight_before));
        try {
          checked.compare(checker, "linear", g, &ref::linear_forward<std::complex<double>>);
          return ::testing::AssertionSuccess();
        } catch (const Error& error) {
          return ::testing::AssertionFailure() << error.what();
        }
      };
      const std::vector<double> dx = dx_of(kOutputs, in_float),
                                dweight = dweight_of(kRows, in_float);
      EXPECT_TRUE(passes(dx, dweight));
      for (const Mutant& mutant : kSpoilt) {
        std::vector<double> wrong = dx;
        mutant.spoil(wrong, kInputs);
        EXPECT_FALSE(passes(wrong, dweight)) << "dx: " << mutant.name;
        wrong = dweight;
        mutant.spoil(wrong, kInputs);
        EXPECT_FALSE(passes(dx, wrong)) << "dweight: " << mutant.name;
      }
      EXPECT_FALSE(passes(dx_of(kOutputs / 2, in_float), dweight)) << "half of the outputs";
      EXPECT_FALSE(passes(dx, dweight_of(kRows / 2, in_float))) << "half of the rows";
      if (types.x == DType::kF32 && !types.rounded) {
        EXPECT_FALSE(passes(dx_of(kOutputs, low), dweight)) << "accumulation in bfloat16";
        EXPECT_FALSE(passes(dx, dweight_of(kRows, low))) << "accumulation in bfloat16";
      }
      if (accumulate) {
        // Written where it should have been added, and added twice.
        std::vector<double> assigned = dx, twice = dx;
        for (size_t i = 0; i < dx.size(); ++i) {
          assigned[i] -= dx_before[i];
          twice[i] += dx_before[i];
        }
        EXPECT_FALSE(passes(assigned, dweight)) << "assigned";
        EXPECT_FALSE(passes(twice, dweight)) << "what was there counts twice";
      }
    }
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
