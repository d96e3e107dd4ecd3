// The order in which RWKV's public training code visits the windows of its data: window number n
// (0, 1, ...) starts at token
//   ((k (n + 1)^3) mod p) * context,   k = int(p (sqrt(5) - 1) / 2)
// where p, the magic prime, is 2 mod 3, so that cubing is a permutation mod p: p windows in a row
// visit every one of the p places once. All is integer arithmetic but k, which is computed in
// double precision as there.
#pragma once

#include <cstdint>

namespace rookery {

// That code counts "epochs" of so many windows, whatever the data's size.
inline constexpr int64_t kMiniEpochWindows = 40320;

// The largest p that serves data of so many tokens: prime, 2 mod 3, at most
// floor(tokens / context) - 1 and above 0.9 floor(tokens / context). 0 if there is none (the data
// is too small).
int64_t magic_prime(int64_t tokens, int64_t context);

// Throws Error, with what is wrong and what would serve, unless p is prime, 2 mod 3,
// 0.9 < p / floor(tokens / context) <= 1, and its last window ends within the data.
void check_magic_prime(int64_t p, int64_t tokens, int64_t context);

// First token of window number `sample` (0, 1, ...).
int64_t magic_start(int64_t sample, int64_t p, int64_t context);

}  // namespace rookery
