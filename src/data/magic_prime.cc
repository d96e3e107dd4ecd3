#include "data/magic_prime.h"

#include <cassert>
#include <cmath>

#include "core/error.h"

namespace rookery {
namespace {

// By trial: a prime of data that exists has at most some 13 digits, three million divisions.
bool is_prime(int64_t n) {
  if (n < 2) return false;
  for (const int64_t small : {2, 3}) {
    if (n % small == 0) return n == small;
  }
  for (int64_t d = 5; d <= n / d; d += 6) {
    if (n % d == 0 || n % (d + 2) == 0) return false;
  }
  return true;
}

// 0.9 < p / places, in whole numbers and without overflow.
bool large_enough(int64_t p, int64_t places) {
  return p > places / 10 * 9 + (places % 10 * 9) / 10;
}

}  // namespace

int64_t magic_prime(int64_t tokens, int64_t context) {
  assert(tokens >= 0 && context > 0);
  const int64_t places = tokens / context;
  for (int64_t p = places - 1; p > 1 && large_enough(p, places); --p) {
    if (p % 3 == 2 && is_prime(p)) return p;
  }
  return 0;
}

void check_magic_prime(int64_t p, int64_t tokens, int64_t context) {
  const int64_t places = tokens / context;
  const int64_t best = magic_prime(tokens, context);
  const auto advice = [&] {
    return best > 0 ? fmt::format("{} would serve", best)
                    : std::string("no number serves data so small: use the shuffled order");
  };
  check(p > 1 && p <= places) ||
      fail("the magic prime {} should be at most {}, the windows of {} tokens in {}: {}", p, places,
           context, tokens, advice());
  check(large_enough(p, places)) ||
      fail("the magic prime {} should be above 0.9 of {}, the windows of {} tokens in {}: {}", p,
           places, context, tokens, advice());
  check(is_prime(p)) || fail("the magic prime {} is not prime: {}", p, advice());
  check(p % 3 == 2) || fail("the magic prime {} is {} mod 3, expected 2: {}", p, p % 3, advice());
  check(p <= (tokens - 1) / context) ||
      fail("the magic prime {} leaves no token after its last window of {} in {}: {}", p, context,
           tokens, advice());
}

int64_t magic_start(int64_t sample, int64_t p, int64_t context) {
  assert(sample >= 0 && p > 1);
  const auto k = static_cast<int64_t>(static_cast<double>(p) * (std::sqrt(5.0) - 1) / 2);
  const auto times = [p](int64_t a, int64_t b) {
    return static_cast<int64_t>(static_cast<__int128>(a) * b % p);
  };
  const int64_t n = (sample % p + 1) % p;
  return times(k, times(n, times(n, n))) * context;
}

}  // namespace rookery
