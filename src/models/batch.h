// The tokens of one forward: sequences laid end to end, and a copy where operators read them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/context.h"
#include "core/mirror.h"

namespace rookery {

// Sequences laid end to end, with the slots their states come from and go to.
struct Batch {
  std::vector<int32_t> tokens;             // [T]
  std::vector<int32_t> targets;            // [T] in training, else empty
  std::vector<int64_t> offsets{0};         // [S + 1]
  std::vector<int64_t> slot_in, slot_out;  // [S]; -1: the empty state / nowhere
  std::vector<int32_t> wanted;             // rows whose logits are asked for, at most T of them
  int64_t window = 0;                      // see Sequences

  void add(std::span<const int32_t> sequence, int64_t in, int64_t out);
  void clear();
  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  int64_t count() const { return static_cast<int64_t>(slot_in.size()); }
};

// A batch where a device's operators read it. One object serves batch after batch: batches of as
// many rows, and of no more sequences than before, are at the same addresses, which is what a
// captured graph needs.
class PlacedBatch {
 public:
  PlacedBatch() = default;
  // stage() and send() at once.
  PlacedBatch(const Batch& batch, int64_t vocabulary, const Context& ctx) {
    stage(batch, vocabulary, ctx);
    send(ctx);
  }
  // Copies the batch for this context's device, once the context's work has read the batch before.
  // Throws Error for an id outside the vocabulary, a target above it, or a wanted row that is not
  // there. Returns whether the addresses changed.
  bool stage(const Batch& batch, int64_t vocabulary, const Context& ctx);
  // Brings the GPU's copy up to date, in the order of the context's work.
  void send(const Context& ctx) const;

  int64_t rows() const { return rows_; }
  Mirrored<int32_t> tokens() const { return tokens_; }
  Mirrored<int32_t> targets() const { return targets_; }
  Mirrored<int32_t> wanted() const { return wanted_; }  // [wanted_count]
  int64_t wanted_count() const { return wanted_count_; }
  const Sequences& sequences() const { return sequences_; }

 private:
  Mirror mirror_;
  Device device_ = Device::kCpu;
  int64_t rows_ = 0, wanted_count_ = 0, bytes_ = 0, capacity_ = 0;
  Mirrored<int32_t> tokens_, targets_, wanted_;
  Sequences sequences_;
};

}  // namespace rookery
