// Which of several choices a model finds most probable.
//   acc       share of items whose right choice has the largest log p (sum over its tokens)
//   acc_norm  the same after division by the bytes of the choice, a leading space not counted, so
//             that long choices are not at a disadvantage; the field's name for it
// Of equal scores the first counts as the model's choice. Standard errors: sqrt(p (1 - p) / (n -
// 1)). When the alternatives are contexts (WinoGrande), the continuation is the same for all, and
// acc_norm would be acc: it is not reported.
#pragma once

#include <cstdint>
#include <optional>

#include "evaluation/item_scores.h"
#include "evaluation/statistics.h"

namespace rookery {

struct Prediction {
  int64_t choice = 0;       // largest log p
  int64_t choice_norm = 0;  // largest log p / bytes
  bool tie = false;         // whether another choice has the same log p as the largest
};
Prediction predict(const ItemScores& scores);

// What acc_norm divides by, at least 1.
int64_t bytes_of_choice(const std::string& choice);

class MultipleChoice {
 public:
  void add(const ItemScores& scores);

  int64_t items() const { return items_; }
  int64_t ties() const { return ties_; }
  // All of at least one item.
  Estimate accuracy() const;
  // Nothing if an item's alternatives were contexts.
  std::optional<Estimate> accuracy_norm() const;
  // Expected share of right ones when guessing: the mean of 1 / choices.
  double chance() const { return chance_ / static_cast<double>(items_); }

 private:
  Estimate share(int64_t correct) const;

  int64_t items_ = 0, correct_ = 0, correct_norm_ = 0, ties_ = 0;
  double chance_ = 0;
  bool by_context_ = false;
};

}  // namespace rookery
