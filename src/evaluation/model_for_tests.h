// For tests of evaluation: a small model, a tokenizer whose tokens are of different lengths, and
// what a model thinks of a text by the definition.
#pragma once

#include <cstdint>
#include <cmath>
#include <string>
#include <vector>

#include "inference/session.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// Letters, a space, a line end, "the" and "ing"; the longest match is taken. 31 ids with token 0.
class WordTokenizer final : public Tokenizer {
 public:
  WordTokenizer() {
    pieces_.emplace_back();
    for (char c = 'a'; c <= 'z'; ++c) pieces_.emplace_back(1, c);
    for (const char* piece : {" ", "\n", "the", "ing"}) pieces_.emplace_back(piece);
  }
  std::string_view name() const override { return "words"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override {
    while (!text.empty()) {
      size_t best = 0;
      for (size_t id = 1; id < pieces_.size(); ++id) {
        if (text.starts_with(pieces_[id]) && pieces_[id].size() > pieces_[best].size()) best = id;
      }
      check(best > 0) || fail("cannot express '{}'", text.substr(0, 1));
      ids.push_back(static_cast<int32_t>(best));
      text.remove_prefix(pieces_[best].size());
    }
  }
  std::string_view bytes_of(int32_t id) const override { return pieces_.at(id); }
  std::string definition() const override { return "words"; }

 private:
  std::vector<std::string> pieces_;
};

inline Model random_model(ThreadPool& pool, int64_t vocabulary = 31) {
  return Model::initialised(make_config("4", 2, 16, vocabulary), {.scheme = "random"}, pool);
}
// All tokens are equally probable: the head of the paper's initialisation is zero.
inline Model uniform_model(ThreadPool& pool, int64_t vocabulary = 31) {
  return Model::initialised(make_config("4", 2, 16, vocabulary), {.scheme = "paper"}, pool);
}

// log p of each of ids[1], ids[2], .. after those before it, from one session, in float64.
// `greedy` tells which of them is the largest.
inline std::vector<double> log_probabilities(const Model& model, ThreadPool& pool,
                                             const std::vector<int32_t>& ids,
                                             std::vector<bool>* greedy = nullptr) {
  Session session(model, pool, true);
  const std::vector<float> logits = session.feed_all(ids);
  const size_t vocabulary = model.config().vocabulary;
  std::vector<double> result;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const float* row = logits.data() + i * vocabulary;
    double sum = 0;
    size_t best = 0;
    for (size_t j = 0; j < vocabulary; ++j) {
      sum += std::exp(static_cast<double>(row[j]));
      if (row[j] > row[best]) best = j;
    }
    result.push_back(row[ids[i + 1]] - std::log(sum));
    if (greedy != nullptr) greedy->push_back(best == static_cast<size_t>(ids[i + 1]));
  }
  return result;
}

}  // namespace rookery
