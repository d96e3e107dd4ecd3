// Which windows of the data a step trains on: a pure function of seed and sample number, so that a
// resumed run sees what an uninterrupted one would.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/token_span.h"

namespace rookery {

// Sequences laid end to end with their next tokens; the loader's part of a model's batch.
struct TrainingBatch {
  std::vector<int32_t> tokens;   // [T]
  std::vector<int32_t> targets;  // [T]; -1: not learned
  std::vector<int64_t> offsets;  // [sequences + 1]
};

enum class WindowOrder {
  kShuffled,    // windows do not overlap within an epoch; each epoch starts at another offset and
                // visits them in another order
  kMagicPrime,  // RWKV's public training code (data/magic_prime.h)
};
std::string_view name_of(WindowOrder order);
// "shuffled" or "magic-prime"; throws Error for anything else.
WindowOrder parse_window_order(std::string_view name);

struct LoaderOptions {
  int64_t context = 0;  // tokens of a window
  uint64_t seed = 1;    // of the shuffled order
  bool reset_documents =
      false;  // a window is cut before every 0: what follows starts from an empty state
  WindowOrder order = WindowOrder::kShuffled;
  int64_t magic_prime = 0;  // 0: the largest that serves
  int64_t vocabulary = int64_t{1} << 31;
};

class Loader {
 public:
  // `tokens` and `mask` must outlive this. `mask` is empty, or holds a byte for each token: 1 if it
  // is learned as a target, 0 if not. Throws Error when not even one window fits, or the magic
  // prime does not serve.
  Loader(TokenSpan tokens, const LoaderOptions& options, std::span<const uint8_t> mask = {});

  int64_t windows_per_epoch() const { return windows_; }
  // The one in use; 0 for another order.
  int64_t magic_prime() const { return options_.magic_prime; }
  // Appends window number `sample` (0 ..) to the batch. Throws Error for an id outside the
  // vocabulary.
  void append(int64_t sample, TrainingBatch& batch) const;
  // First token of window number `sample`.
  int64_t start_of(int64_t sample) const;
  // Appends the window of tokens [start, start + context) with its targets.
  void append_at(int64_t start, TrainingBatch& batch) const;

 private:
  int32_t token(int64_t at) const;

  TokenSpan tokens_;
  std::span<const uint8_t> mask_;
  LoaderOptions options_;
  int64_t windows_ = 0;
};

}  // namespace rookery
