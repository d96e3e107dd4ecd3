// The form of LAMBADA: a context and the one continuation that is right, a word or more. Of n items
// with s_i = log p of the continuation, T_i tokens:
//   accuracy              share of items whose every token is the greedy choice
//   perplexity            exp(-sum s_i / n): per item, what the field reports for LAMBADA
//   token perplexity      exp(-sum s_i / sum T_i)
// Standard errors: sqrt(p (1 - p) / (n - 1)); for the perplexities by the delta method, the
// perplexity times the standard error of its exponent.
#pragma once

#include <cstdint>

#include "evaluation/item_scores.h"
#include "evaluation/statistics.h"

namespace rookery {

class LastWord {
 public:
  void add(const ItemScores& scores);

  int64_t items() const { return nats_.count(); }
  int64_t correct() const { return correct_; }
  int64_t tokens() const { return tokens_; }  // of the continuations
  // All of at least one item.
  Estimate accuracy() const;
  Estimate perplexity() const;
  Estimate token_perplexity() const;

 private:
  int64_t correct_ = 0, tokens_ = 0;
  Mean nats_;             // per item
  Ratio nats_per_token_;  // groups are items
};

}  // namespace rookery
