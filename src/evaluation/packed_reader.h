// Many sequences read by a model in full batches, and the log-probabilities of the tokens that
// somebody asks for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "inference/runner.h"

namespace rookery {

// What a model thinks of one token after what it has read.
struct TokenScore {
  double log_probability = 0;  // nats
  bool greedy = false;         // whether greedy decoding would take it
};

// A token to be judged after row `row` of a reading has been read.
struct Asked {
  int64_t row = 0;
  int32_t token = 0;
  TokenScore score = {};  // the answer
};

// One sequence that continues a state. What one reading leaves in a slot, no other of the same call
// may read or write.
struct Reading {
  std::span<const int32_t> tokens;  // at least one
  int64_t slot_in = -1;             // -1: the empty state
  int64_t slot_out = -1;            // -1: nowhere
  std::vector<Asked> asked;         // rows ascend; a row may occur several times
};

struct PackedReaderOptions {
  // Most tokens of one forward. Sequences are laid end to end; one that does not fit goes on in the
  // next forward, with its state. No token is padding.
  int64_t batch_tokens = 2048;
  // Slow, but numbers do not depend on the neighbours in a batch or on where a sequence was cut.
  bool deterministic = false;
};

// Memory: the activations of batch_tokens rows, ModelRunner::kLogitsBytes of logits, and the slots.
class PackedReader {
 public:
  // The model and the pool must outlive this. `slots` states for the caller, all empty.
  PackedReader(const Model& model, ThreadPool& pool, int64_t slots,
               const PackedReaderOptions& options);

  // Reads all, in order, and answers what is asked. Throws Error for ids out of range and for
  // logits that are not finite.
  void read(std::span<Reading> readings);

  const Model& model() const { return runner_.model(); }
  const PackedReaderOptions& options() const { return options_; }
  int64_t slots() const { return slots_; }
  // Tokens read since construction.
  int64_t tokens_read() const { return tokens_read_; }

 private:
  void ask(int64_t row, Asked& asked);
  void forward();
  // The questions about the batch's wanted rows from number `first` on, with their logits.
  void answer(int64_t first, std::span<const float> logits);

  PackedReaderOptions options_;
  int64_t slots_;
  ModelRunner
      runner_;  // the caller's slots, and two for a sequence that goes on in the next forward
  ThreadPool& pool_;
  Batch batch_;
  std::vector<Asked*> questions_;
  std::vector<size_t> first_question_;  // of each wanted row of the batch
  int64_t tokens_read_ = 0;
};

}  // namespace rookery
