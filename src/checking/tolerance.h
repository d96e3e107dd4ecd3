// How far rounding may carry the elements of a result from those of its definition
// (docs/numerics.md, section 5). For element i of a tensor
//
//   |actual_i - expected_i| <= 8 * 2^-24 * sqrt(terms) * E * L  +  units * u * |expected_i|
//                              + 3 * 2^-8 * sqrt(roundings) * M
//
// with L the largest and M the root mean square of the expected tensor: sums in float32 of `terms`
// numbers (E is 1 unless they are exponentials), the final rounding to the tensor's own type, whose
// unit roundoff is u, and intermediate roundings to bfloat16. The scales are the reference's, never
// the kernel's own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace rookery {

// Half a unit in the last place, relative to the number: what rounding to this type costs at most.
constexpr double unit_roundoff(DType dtype) { return epsilon_of(dtype) / 2; }

// What an operator says of the rounding behind one tensor.
struct Rounding {
  double terms = 1;  // length of the longest sum behind an element
  DType dtype = DType::kF32;
  // E: the largest exponent whose exponential the element is a sum of. Rounding x changes e^x by
  // |x| roundings of its own.
  double exponent = 1;
  double units = 1;      // roundings of the whole element to its own type
  double roundings = 0;  // intermediate ones to bfloat16, independent of each other; at most 8
  // In place of L and M where the formula subtracts numbers that are larger than the result; 0:
  // there are none.
  double magnitude = 0;
  // L and M are at least this, where a sum may cancel nearly to nothing.
  double least = 0;
};

// The scales L and M of an expected tensor. Infinities do not count.
struct Scale {
  double largest = 0, rms = 0;
};
Scale scale_of(const std::vector<double>& expected);

double tolerance_of(const Rounding& rounding, const Scale& scale, double expected);
// The root mean square of a tensor's tolerances.
double rms_tolerance_of(const Rounding& rounding, const Scale& scale);

// What a comparison found.
struct Comparison {
  double worst = 0;  // the largest difference as a share of its tolerance
  double looseness =
      0;  // root mean square of the tolerances, relative to that of the expected values
  bool refused = false;  // nothing was compared: see too_loose()
};
// Whether rounding explains too much for a comparison to mean anything: the tolerances' root mean
// square is more than an eighth of that of the expected values.
bool too_loose(double rms_tolerance, double rms_expected);

// Compares element by element; expected zeros everywhere must be met exactly; where the formula
// subtracts (a magnitude is given), others than zeros are not compared. Throws Error naming
// the first element that rounding does not explain; NaN is such a difference.
Comparison compare_rounded(const std::string& what, const std::vector<double>& actual,
                           const std::vector<double>& expected, const Rounding& rounding);

// The same for a tensor of `count` elements of which a few are known, and sums of all with random
// signs. The errors of the elements add up in such a sum as in a random walk.
Comparison compare_scaled(const std::string& what, const std::vector<double>& few,
                          const std::vector<double>& expected_few, const std::vector<double>& sums,
                          const std::vector<double>& expected_sums, const Rounding& rounding,
                          const Scale& scale, int64_t count);

// Throws Error unless every |actual - expected| <= tolerance; NaN is a difference. Returns the
// largest difference as a share of the tolerance.
double compare_elements(const std::string& what, const std::vector<double>& actual,
                        const std::vector<double>& expected, double tolerance);

double largest(const std::vector<double>& values);
double norm(const std::vector<double>& values);

}  // namespace rookery
