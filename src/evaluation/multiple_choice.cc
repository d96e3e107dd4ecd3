#include "evaluation/multiple_choice.h"

#include <algorithm>

namespace rookery {

int64_t bytes_of_choice(const std::string& choice) {
  const int64_t bytes = static_cast<int64_t>(choice.size());
  return std::max<int64_t>(1, choice.starts_with(' ') ? bytes - 1 : bytes);
}

Prediction predict(const ItemScores& scores) {
  Prediction prediction;
  double best = 0, best_norm = 0;
  for (size_t i = 0; i < scores.scores.size(); ++i) {
    const double log_probability = scores.scores[i].log_probability;
    const auto& continuations = scores.item.continuations;
    const double norm =
        log_probability /
        static_cast<double>(bytes_of_choice(continuations[std::min(i, continuations.size() - 1)]));
    if (i > 0 && log_probability == best) prediction.tie = true;
    if (i == 0 || log_probability > best) {
      best = log_probability;
      prediction.choice = static_cast<int64_t>(i);
      prediction.tie = false;
    }
    if (i == 0 || norm > best_norm) {
      best_norm = norm;
      prediction.choice_norm = static_cast<int64_t>(i);
    }
  }
  return prediction;
}

void MultipleChoice::add(const ItemScores& scores) {
  const Prediction prediction = predict(scores);
  ++items_;
  if (prediction.choice == scores.item.gold) ++correct_;
  if (prediction.choice_norm == scores.item.gold) ++correct_norm_;
  if (prediction.tie) ++ties_;
  chance_ += 1 / static_cast<double>(scores.item.choices());
  by_context_ = by_context_ || scores.item.contexts.size() > 1;
}

Estimate MultipleChoice::share(int64_t correct) const {
  const double share = static_cast<double>(correct) / static_cast<double>(items_);
  return {share, binomial_error(share, items_)};
}

Estimate MultipleChoice::accuracy() const { return share(correct_); }

std::optional<Estimate> MultipleChoice::accuracy_norm() const {
  if (by_context_) return std::nullopt;
  return share(correct_norm_);
}

}  // namespace rookery
