// The order of the public training code, against numbers that it gave.
#include "data/magic_prime.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace rookery {
namespace {

constexpr int64_t kTokens = 1498226207;

TEST(MagicPrime, IsThatOfThePublicCode) {
  EXPECT_EQ(magic_prime(kTokens, 512), 2926181);
  EXPECT_EQ(magic_prime(kTokens, 1024), 1463027);
  EXPECT_EQ(magic_prime(kTokens, 4096), 365759);
  EXPECT_EQ(magic_prime(332115325534, 4096), 81082817);  // the Pile
}

TEST(MagicPrime, StartsAreThoseOfThePublicCode) {
  EXPECT_EQ(magic_start(0, 2926181, 512), 925941248);
  EXPECT_EQ(magic_start(1, 2926181, 512), 1414711296);
  EXPECT_EQ(magic_start(2, 2926181, 512), 1029138944);
  EXPECT_EQ(magic_start(0, 1463027, 1024), int64_t{904200} * 1024);
  EXPECT_EQ(magic_start(0, 365759, 4096), 925904896);
  EXPECT_EQ(magic_start(1, 365759, 4096), 1414643712);
  EXPECT_EQ(magic_start(2, 365759, 4096), 1029050368);
}

TEST(MagicPrime, EveryWindowIsVisitedOnce) {
  for (const int64_t p : {5, 11, 1049}) {
    for (const int64_t first : {int64_t{0}, int64_t{77777}, int64_t{1} << 62}) {
      std::vector<int> seen(p);
      for (int64_t i = 0; i < p; ++i) {
        const int64_t start = magic_start(first + i, p, 7);
        ASSERT_EQ(start % 7, 0);
        ASSERT_TRUE(start >= 0 && start / 7 < p);
        ++seen[start / 7];
      }
      EXPECT_EQ(seen, std::vector<int>(p, 1)) << p;
    }
  }
}

TEST(MagicPrime, OfEverySizeTheLargestThatSatisfiesTheRules) {
  const auto prime = [](int64_t n) {
    for (int64_t d = 2; d < n; ++d) {
      if (n % d == 0) return false;
    }
    return n > 1;
  };
  int found = 0;
  for (int64_t tokens = 0; tokens < 1500; ++tokens) {
    const int64_t context = 1 + tokens % 3, places = tokens / context;
    int64_t expected = 0;
    for (int64_t p = 2; p < places; ++p) {
      if (prime(p) && p % 3 == 2 && 10 * p > 9 * places) expected = p;
    }
    ASSERT_EQ(magic_prime(tokens, context), expected) << tokens << " " << context;
    if (expected > 0) {
      ++found;
      EXPECT_NO_THROW(check_magic_prime(expected, tokens, context));
    }
  }
  EXPECT_GT(found, 500);
}

std::string refusal(int64_t p, int64_t tokens, int64_t context) {
  try {
    check_magic_prime(p, tokens, context);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MagicPrime, RefusesWhatBreaksARule) {
  EXPECT_EQ(refusal(101, 1040, 10), "");
  EXPECT_NE(refusal(103, 1040, 10).find("is 1 mod 3"), std::string::npos);
  EXPECT_NE(refusal(99, 1040, 10).find("not prime"), std::string::npos);
  EXPECT_NE(refusal(89, 1040, 10).find("above 0.9"), std::string::npos);
  EXPECT_NE(refusal(107, 1040, 10).find("at most 104"), std::string::npos);
  EXPECT_NE(refusal(107, 1040, 10).find("101 would serve"), std::string::npos);
  EXPECT_NE(refusal(101, 1010, 10).find("no token after"), std::string::npos);
  EXPECT_EQ(refusal(101, 1011, 10), "");
  EXPECT_NE(refusal(-5, 1040, 10).find("at most"), std::string::npos);
  EXPECT_NE(refusal(7, 12, 10).find("shuffled"), std::string::npos);
}

}  // namespace
}  // namespace rookery
