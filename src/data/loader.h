// Which windows of the text a step trains on: a pure function of seed and sample number, so that a
// resumed run sees what an uninterrupted one would.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rookery {

// Sequences laid end to end with their next tokens; the loader's part of a model's batch.
struct TrainingBatch {
  std::vector<int32_t> tokens;   // [T]
  std::vector<int32_t> targets;  // [T]
  std::vector<int64_t> offsets;  // [sequences + 1]
};

struct LoaderOptions {
  int64_t context = 0;  // tokens of a window
  uint64_t seed = 1;
  bool reset_documents =
      false;  // a window is cut before every 0: what follows starts from an empty state
};

// Windows do not overlap within an epoch; each epoch starts at another offset and visits them in
// another order.
class Loader {
 public:
  // `tokens` must outlive this. Throws Error when not even one window fits.
  Loader(std::span<const uint8_t> tokens, const LoaderOptions& options);

  int64_t windows_per_epoch() const { return windows_; }
  // Appends window number `sample` (0 ..) to the batch.
  void append(int64_t sample, TrainingBatch& batch) const;
  // First token of window number `sample`.
  int64_t start_of(int64_t sample) const;
  // Appends the window of tokens [start, start + context) with its targets.
  void append_at(int64_t start, TrainingBatch& batch) const;

 private:
  std::span<const uint8_t> tokens_;
  LoaderOptions options_;
  int64_t windows_ = 0;
};

}  // namespace rookery
