// Measuring time: a stopwatch, and the middle of several measurements.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/error.h"

namespace rookery {

// Seconds of a steady clock since it was made or restarted.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  // Starts anew and returns the seconds until then.
  double restart() {
    const auto now = std::chrono::steady_clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    start_ = now;
    return elapsed;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The middle value; the lower one of the two middles of an even number. Throws Error for none.
inline double median(std::vector<double> values) {
  check(!values.empty()) || fail("the median of no values");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace rookery
