// Log-probabilities from one row of logits.
#pragma once

#include <cstdint>
#include <span>

namespace rookery {

// log p(j) = z_j - largest - log_sum, in nats. The exponentials are float32, their sum is float64:
// the error of log_sum is about 1e-7, as that of the logits.
struct LogSoftmax {
  float largest = 0;   // max over j of z_j
  double log_sum = 0;  // log sum over j of e^(z_j - largest); not finite if a logit is not

  double of(float logit) const {
    return static_cast<double>(logit) - static_cast<double>(largest) - log_sum;
  }
};

// logits [V], at least one.
LogSoftmax log_softmax(std::span<const float> logits);

// Whether greedy decoding takes `token`: its logit is the largest, and no token with a smaller id
// has the same.
bool is_greedy(std::span<const float> logits, const LogSoftmax& row, int64_t token);

}  // namespace rookery
