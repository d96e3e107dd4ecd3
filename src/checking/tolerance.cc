#include "checking/tolerance.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"

namespace rookery {
namespace {

// Below the smallest normal number of its type a result has fewer digits, or is flushed to zero.
double smallest_normal(DType dtype) { return dtype == DType::kF16 ? 0x1p-14 : 0x1p-126; }

double compare(const std::string& what, const std::vector<double>& actual,
               const std::vector<double>& expected,
               const std::function<double(double expected)>& tolerance_for) {
  check(actual.size() == expected.size()) ||
      fail("{}: {} numbers, expected {}", what, actual.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isinf(expected[i]) && actual[i] == expected[i]) continue;
    const double difference = std::abs(actual[i] - expected[i]);
    const double tolerance = tolerance_for(expected[i]);
    if (difference <= tolerance) {  // written so that NaN fails
      if (difference > 0) worst = std::max(worst, difference / tolerance);
      continue;
    }
    fail(
        "{}: element {} of {} is {:.9g}, expected {:.9g}; rounding explains a difference of "
        "{:.3g}, not one of {:.3g}",
        what, i, actual.size(), actual[i], expected[i], tolerance, difference);
  }
  return worst;
}

}  // namespace

Scale scale_of(const std::vector<double>& expected) {
  Scale scale;
  double squares = 0;
  int64_t count = 0;
  for (const double value : expected) {
    if (std::isinf(value)) continue;
    scale.largest = std::max(scale.largest, std::abs(value));
    squares += value * value;
    ++count;
  }
  scale.rms = count > 0 ? std::sqrt(squares / static_cast<double>(count)) : 0;
  return scale;
}

double tolerance_of(const Rounding& rounding, const Scale& scale, double expected) {
  const double largest =
      rounding.magnitude > 0 ? rounding.magnitude : std::max(scale.largest, rounding.least);
  const double rms =
      rounding.magnitude > 0 ? rounding.magnitude : std::max(scale.rms, rounding.least);
  const double unit = unit_roundoff(rounding.dtype);
  return 8 * 0x1p-24 * std::sqrt(std::max(rounding.terms, 1.0)) * std::max(rounding.exponent, 1.0) *
             largest +
         rounding.units * unit * std::max(std::abs(expected), smallest_normal(rounding.dtype)) +
         3 * 0x1p-8 * std::sqrt(rounding.roundings) * rms;
}

double rms_tolerance_of(const Rounding& rounding, const Scale& scale) {
  return tolerance_of(rounding, scale, scale.rms);
}

bool too_loose(double rms_tolerance, double rms_expected) {
  return !(rms_tolerance <= rms_expected / 8);
}

Comparison compare_rounded(const std::string& what, const std::vector<double>& actual,
                           const std::vector<double>& expected, const Rounding& rounding) {
  const Scale scale = scale_of(expected);
  const bool met = scale.largest == 0 && largest(actual) == 0;  // NaN is not: see compare()
  if (met || (scale.largest == 0 && rounding.magnitude + rounding.least == 0)) {
    return {.worst = compare(what, actual, expected, [](double) { return 0.0; })};
  }
  const double tolerance = rms_tolerance_of(rounding, scale);
  if (too_loose(tolerance, scale.rms)) {
    return {.looseness = scale.rms > 0 ? tolerance / scale.rms : HUGE_VAL, .refused = true};
  }
  const double worst = compare(what, actual, expected,
                               [&](double value) { return tolerance_of(rounding, scale, value); });
  return {.worst = worst, .looseness = tolerance / scale.rms};
}

Comparison compare_scaled(const std::string& what, const std::vector<double>& few,
                          const std::vector<double>& expected_few, const std::vector<double>& sums,
                          const std::vector<double>& expected_sums, const Rounding& rounding,
                          const Scale& scale, int64_t count) {
  const bool zero = scale.largest == 0 && rounding.magnitude + rounding.least == 0;
  const double rms = zero ? 0 : rms_tolerance_of(rounding, scale);
  if (!zero && too_loose(rms, scale.rms)) {
    return {.looseness = scale.rms > 0 ? rms / scale.rms : HUGE_VAL, .refused = true};
  }
  const double worst = compare(what, few, expected_few, [&](double value) {
    return zero ? 0 : tolerance_of(rounding, scale, value);
  });
  // Three deviations: one sum in 400 lies beyond them, and the scale is an estimate.
  const double of_sums = 3 * rms * std::sqrt(static_cast<double>(count));
  const double worst_sum =
      compare(what + " (random directions)", sums, expected_sums, [&](double) { return of_sums; });
  return {.worst = std::max(worst, worst_sum), .looseness = zero ? 0 : rms / scale.rms};
}

double compare_elements(const std::string& what, const std::vector<double>& actual,
                        const std::vector<double>& expected, double tolerance) {
  return compare(what, actual, expected, [tolerance](double) { return tolerance; });
}

double largest(const std::vector<double>& values) { return scale_of(values).largest; }

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace rookery
