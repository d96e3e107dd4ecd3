// Means and their standard errors.
#pragma once

#include <cstdint>
#include <optional>

namespace rookery {

// A number and its standard error, which nobody knows from one item.
struct Estimate {
  double value = 0;
  std::optional<double> error;
};

// Of a share p of n independent items: sqrt(p (1 - p) / (n - 1)). Nothing for n < 2.
std::optional<double> binomial_error(double share, int64_t count);

// Mean of independent numbers and its standard error sqrt(sum (x - mean)^2 / (n - 1) / n), in one
// pass (Welford).
class Mean {
 public:
  void add(double x);
  int64_t count() const { return count_; }
  double value() const { return mean_; }  // 0 for none
  // Nothing for fewer than two.
  std::optional<double> error() const;

 private:
  int64_t count_ = 0;
  double mean_ = 0, squares_ = 0;  // sum of (x - mean)^2
};

// The ratio of two sums over independent groups, r = sum x / sum y, such as nats per token over
// documents of different lengths. Its standard error is the delta method's:
//   sqrt(n / (n - 1) * sum (x - r y)^2) / sum y.
class Ratio {
 public:
  void add(double x, double y);
  int64_t count() const { return count_; }
  double value() const { return y_ == 0 ? 0 : x_ / y_; }
  // Nothing for fewer than two groups.
  std::optional<double> error() const;

 private:
  int64_t count_ = 0;
  double x_ = 0, y_ = 0;
  // The sums of squares are of x - start_ y, where start_ is the first group's ratio, so that
  // little is lost when they are taken from one another.
  double start_ = 0, rr_ = 0, ry_ = 0, yy_ = 0;
};

}  // namespace rookery
