// Seeds of tests. Most tests have a fixed one. A test that should try something else in each run,
// such as the moment at which it kills a program, takes this one; a failure says how to repeat it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace rookery {

// As long as it lives, every failure of the test prints the seed.
class TestSeed {
 public:
  // The environment variable ROOKERY_TEST_SEED, or else a number that differs from run to run.
  TestSeed()
      : value_(choose()),
        trace_(__FILE__, __LINE__, "ROOKERY_TEST_SEED=" + std::to_string(value_)) {}
  uint64_t value() const { return value_; }

 private:
  static uint64_t choose() {
    const char* wanted = std::getenv("ROOKERY_TEST_SEED");
    return wanted != nullptr ? std::stoull(wanted) : std::random_device{}();
  }
  const uint64_t value_;
  const testing::ScopedTrace trace_;
};

}  // namespace rookery
