#include "evaluation/scorer.h"

#include <algorithm>

namespace rookery {
namespace {

int64_t slots_for(const Model& model) {
  const int64_t slot =
      std::max<int64_t>(1, model.state_layout().slot_size * static_cast<int64_t>(sizeof(float)));
  return std::clamp<int64_t>(Scorer::kStateBytes / slot, 1, Scorer::kMostSlots);
}

void add(const TokenScore& token, Score& score) {
  score.log_probability += token.log_probability;
  score.greedy = score.greedy && token.greedy;
  ++score.tokens;
}

}  // namespace

Scorer::Scorer(const Model& model, ThreadPool& pool, const ScorerOptions& options)
    : options_(options), reader_(model, pool, slots_for(model), options.reading) {}

std::vector<std::vector<Score>> Scorer::score(std::span<const Question> questions) {
  std::vector<std::vector<Score>> scores;
  for (const Question& question : questions) {
    check(options_.start_token || !question.context.empty()) ||
        fail("an empty context without start token: nothing predicts the first token behind it");
    for (const std::vector<int32_t>& continuation : question.continuations) {
      check(!continuation.empty()) ||
          fail("an empty continuation: it has no probability to compare");
    }
    scores.emplace_back(question.continuations.size());
  }
  const size_t group = static_cast<size_t>(slots());
  for (size_t first = 0; first < questions.size(); first += group) {
    const size_t count = std::min(group, questions.size() - first);
    score_group(questions.subspan(first, count), std::span(scores).subspan(first, count));
  }
  return scores;
}

void Scorer::score_group(std::span<const Question> questions,
                         std::span<std::vector<Score>> scores) {
  // The contexts, each into its slot. What follows a context's last token is asked here.
  std::vector<std::vector<int32_t>> contexts(questions.size());
  std::vector<Reading> readings(questions.size());
  for (size_t q = 0; q < questions.size(); ++q) {
    if (options_.start_token) contexts[q].push_back(0);
    contexts[q].insert(contexts[q].end(), questions[q].context.begin(), questions[q].context.end());
    readings[q].tokens = contexts[q];
    readings[q].slot_out = static_cast<int64_t>(q);
    const int64_t last = static_cast<int64_t>(contexts[q].size()) - 1;
    for (const auto& continuation : questions[q].continuations) {
      readings[q].asked.push_back({last, continuation.front()});
    }
  }
  reader_.read(readings);
  for (size_t q = 0; q < questions.size(); ++q) {
    for (size_t c = 0; c < scores[q].size(); ++c) add(readings[q].asked[c].score, scores[q][c]);
  }

  // The continuations, each from its context's slot. The last token of each is only asked for.
  readings.clear();
  std::vector<Score*> targets;
  for (size_t q = 0; q < questions.size(); ++q) {
    for (size_t c = 0; c < scores[q].size(); ++c) {
      const std::vector<int32_t>& tokens = questions[q].continuations[c];
      if (tokens.size() == 1) continue;
      Reading& reading = readings.emplace_back();
      reading.tokens = std::span(tokens).first(tokens.size() - 1);
      reading.slot_in = static_cast<int64_t>(q);
      for (size_t i = 1; i < tokens.size(); ++i) {
        reading.asked.push_back({static_cast<int64_t>(i) - 1, tokens[i]});
      }
      targets.push_back(&scores[q][c]);
    }
  }
  reader_.read(readings);
  for (size_t r = 0; r < readings.size(); ++r) {
    for (const Asked& asked : readings[r].asked) add(asked.score, *targets[r]);
  }
}

}  // namespace rookery
