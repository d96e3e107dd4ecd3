#include "data/loader.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/random.h"

namespace rookery {
namespace {

// A permutation of [0, count): a Feistel network over the next power of four, walked until it lands
// inside.
uint64_t permuted(uint64_t index, uint64_t count, uint64_t seed, uint64_t epoch) {
  const int half = std::max(1, (static_cast<int>(std::bit_width(count - 1)) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = philox(seed, epoch * 4 + round, right)[0] & mask;
      left = std::exchange(right, left ^ mixed);
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}

}  // namespace

Loader::Loader(std::span<const uint8_t> tokens, const LoaderOptions& options)
    : tokens_(tokens), options_(options) {
  const auto count = static_cast<int64_t>(tokens.size());
  check(options.context > 0, "a context of {} tokens is no context: at least 1", options.context);
  check(count > options.context,
        "the text has {} tokens, a window needs {} and the one after: use a smaller --context or "
        "more text",
        count, options.context);
  // One window less than fits, so that every offset of an epoch leaves room.
  windows_ = std::max<int64_t>((count - 1) / options.context - 1, 1);
}

int64_t Loader::start_of(int64_t sample) const {
  const int64_t epoch = sample / windows_, index = sample % windows_;
  const int64_t room = static_cast<int64_t>(tokens_.size()) - 1 - windows_ * options_.context;
  const auto offset = static_cast<int64_t>(Random(options_.seed, ~static_cast<uint64_t>(epoch))
                                               .below(std::min(room, options_.context) + 1));
  const auto window =
      static_cast<int64_t>(permuted(static_cast<uint64_t>(index), static_cast<uint64_t>(windows_),
                                    options_.seed, static_cast<uint64_t>(epoch)));
  return offset + window * options_.context;
}

void Loader::append(int64_t sample, TrainingBatch& batch) const {
  append_at(start_of(sample), batch);
}

void Loader::append_at(int64_t start, TrainingBatch& batch) const {
  if (batch.offsets.empty()) batch.offsets.push_back(0);
  for (int64_t i = 0; i < options_.context; ++i) {
    // The end of a document is the start of the next: its 0 is read from an empty state.
    if (options_.reset_documents && i > 0 && tokens_[start + i] == 0) {
      batch.offsets.push_back(static_cast<int64_t>(batch.tokens.size()));
    }
    batch.tokens.push_back(tokens_[start + i]);
    batch.targets.push_back(tokens_[start + i + 1]);
  }
  batch.offsets.push_back(static_cast<int64_t>(batch.tokens.size()));
}

}  // namespace rookery
