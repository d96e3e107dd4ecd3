#include "evaluation/last_word.h"

#include <cmath>

namespace rookery {
namespace {

Estimate exponential_of(double mean, std::optional<double> error) {
  const double value = std::exp(mean);
  return {value, error ? std::optional(value * *error) : std::nullopt};
}

}  // namespace

void LastWord::add(const ItemScores& scores) {
  const Score& score = scores.scores.front();
  if (score.greedy) ++correct_;
  tokens_ += score.tokens;
  nats_.add(-score.log_probability);
  nats_per_token_.add(-score.log_probability, static_cast<double>(score.tokens));
}

Estimate LastWord::accuracy() const {
  const double share = static_cast<double>(correct_) / static_cast<double>(items());
  return {share, binomial_error(share, items())};
}

Estimate LastWord::perplexity() const { return exponential_of(nats_.value(), nats_.error()); }

Estimate LastWord::token_perplexity() const {
  return exponential_of(nats_per_token_.value(), nats_per_token_.error());
}

}  // namespace rookery
