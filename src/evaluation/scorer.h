// Log-probabilities of given continuations after contexts. A context is read once; its state is
// forked to its continuations by slots.
//
// The score of a continuation c_1 .. c_n after a context x is
//   sum over i of log p(c_i | token 0, x, c_1 .. c_i-1),   in nats, summed in float64.
// Token 0, the end of a document and so the start of the next, comes first because models are
// trained on documents that begin behind it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "evaluation/packed_reader.h"

namespace rookery {

struct ScorerOptions {
  bool start_token = true;
  PackedReaderOptions reading;
};

// A context and what may follow it.
struct Question {
  std::vector<int32_t> context;                     // may be empty if there is a start token
  std::vector<std::vector<int32_t>> continuations;  // none of them empty
};

struct Score {
  double log_probability = 0;  // nats, of all tokens together
  int64_t tokens = 0;
  bool greedy = true;  // whether greedy decoding would take every token
};

class Scorer {
 public:
  // Bytes that the states of contexts may take, and most contexts at a time.
  static constexpr int64_t kStateBytes = int64_t{256} << 20, kMostSlots = 512;

  // The model and the pool must outlive this.
  Scorer(const Model& model, ThreadPool& pool, const ScorerOptions& options);

  // [questions][continuations]. Any number of questions; they are read in groups of slots() each.
  // Throws Error for an empty continuation, an empty context without start token, ids out of range
  // and logits that are not finite.
  std::vector<std::vector<Score>> score(std::span<const Question> questions);

  // Questions whose states are held at a time.
  int64_t slots() const { return reader_.slots(); }
  const ScorerOptions& options() const { return options_; }
  // Tokens read since construction.
  int64_t tokens_read() const { return reader_.tokens_read(); }

 private:
  void score_group(std::span<const Question> questions, std::span<std::vector<Score>> scores);

  ScorerOptions options_;
  PackedReader reader_;
};

}  // namespace rookery
