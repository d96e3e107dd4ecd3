#include "evaluation/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace rookery {
namespace {

TEST(Statistics, BinomialError) {
  EXPECT_DOUBLE_EQ(*binomial_error(0.25, 49), std::sqrt(0.25 * 0.75 / 48));
  EXPECT_EQ(*binomial_error(1, 10), 0);
  EXPECT_FALSE(binomial_error(0.5, 1).has_value());
}

TEST(Statistics, BinomialErrorIsThatOfZerosAndOnes) {
  Mean mean;
  for (int i = 0; i < 20; ++i) mean.add(i < 7 ? 1 : 0);
  EXPECT_NEAR(mean.value(), 0.35, 1e-15);
  EXPECT_NEAR(*mean.error(), *binomial_error(0.35, 20), 1e-15);
}

TEST(Statistics, MeanFarFromZero) {
  Mean mean;
  EXPECT_FALSE(mean.error().has_value());
  for (const double x : {1e9 + 1, 1e9 + 2, 1e9 + 6}) mean.add(x);
  EXPECT_DOUBLE_EQ(mean.value(), 1e9 + 3);
  EXPECT_NEAR(*mean.error(), std::sqrt((4 + 1 + 9) / 2.0 / 3), 1e-12);
}

TEST(Statistics, RatioByItsFormula) {
  const std::vector<std::pair<double, double>> groups = {{10, 4}, {3, 1}, {50, 30}, {8, 2}, {1, 1}};
  Ratio ratio;
  double x = 0, y = 0;
  for (const auto& [a, b] : groups) {
    ratio.add(a, b);
    x += a;
    y += b;
  }
  EXPECT_DOUBLE_EQ(ratio.value(), x / y);
  double squares = 0;
  for (const auto& [a, b] : groups) squares += (a - x / y * b) * (a - x / y * b);
  EXPECT_NEAR(*ratio.error(), std::sqrt(5.0 / 4 * squares) / y, 1e-12);
}

TEST(Statistics, RatioOfEqualSizesIsTheMean) {
  Ratio ratio;
  Mean mean;
  EXPECT_FALSE(ratio.error().has_value());
  for (const double x : {3.0, 5.5, 1.25, 9.0}) {
    ratio.add(x, 7);
    mean.add(x / 7);
  }
  EXPECT_NEAR(ratio.value(), mean.value(), 1e-15);
  EXPECT_NEAR(*ratio.error(), *mean.error(), 1e-15);
}

TEST(Statistics, GroupsThatAgreeHaveNoError) {
  Ratio ratio;
  for (int i = 1; i < 100; ++i) ratio.add(5.545177 * i * 1000, i * 1000);
  EXPECT_NEAR(*ratio.error(), 0, 1e-12);
}

}  // namespace
}  // namespace rookery
