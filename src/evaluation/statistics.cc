#include "evaluation/statistics.h"

#include <algorithm>
#include <cmath>

namespace rookery {

std::optional<double> binomial_error(double share, int64_t count) {
  if (count < 2) return std::nullopt;
  return std::sqrt(share * (1 - share) / static_cast<double>(count - 1));
}

void Mean::add(double x) {
  ++count_;
  const double before = x - mean_;
  mean_ += before / static_cast<double>(count_);
  squares_ += before * (x - mean_);
}

std::optional<double> Mean::error() const {
  if (count_ < 2) return std::nullopt;
  const double n = static_cast<double>(count_);
  return std::sqrt(squares_ / (n - 1) / n);
}

void Ratio::add(double x, double y) {
  if (count_++ == 0 && y != 0) start_ = x / y;
  x_ += x;
  y_ += y;
  const double rest = x - start_ * y;
  rr_ += rest * rest;
  ry_ += rest * y;
  yy_ += y * y;
}

std::optional<double> Ratio::error() const {
  if (count_ < 2 || y_ == 0) return std::nullopt;
  const double n = static_cast<double>(count_), shift = value() - start_;
  const double squares = std::max(0.0, rr_ - 2 * shift * ry_ + shift * shift * yy_);
  return std::sqrt(n / (n - 1) * squares) / y_;
}

}  // namespace rookery
