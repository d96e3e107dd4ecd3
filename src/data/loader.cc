#include "data/loader.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/random.h"
#include "data/magic_prime.h"

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

std::string_view name_of(WindowOrder order) {
  return order == WindowOrder::kShuffled ? "shuffled" : "magic-prime";
}

WindowOrder parse_window_order(std::string_view name) {
  if (name == "shuffled") return WindowOrder::kShuffled;
  if (name == "magic-prime") return WindowOrder::kMagicPrime;
  fail("'{}' is no order of windows: expected shuffled or magic-prime", name);
}

Loader::Loader(TokenSpan tokens, const LoaderOptions& options, std::span<const uint8_t> mask)
    : tokens_(tokens), mask_(mask), options_(options) {
  const int64_t count = tokens.size();
  check(options.context > 0) ||
      fail("a context of {} tokens is no context: at least 1", options.context);
  check(count > options.context) || fail(
                                        "the text has {} tokens, a window needs {} and the one "
                                        "after: use a smaller --context or more text",
                                        count, options.context);
  check(mask.empty() || static_cast<int64_t>(mask.size()) == count) ||
      fail("the mask has {} bytes, expected one for each of the {} tokens", mask.size(), count);
  if (options.order == WindowOrder::kMagicPrime) {
    if (options.magic_prime == 0)
      options_.magic_prime = rookery::magic_prime(count, options.context);
    check(options_.magic_prime != 0) ||
        fail(
            "no magic prime serves the {} windows of {} tokens: use --order shuffled, a smaller "
            "--context or more text",
            count / options.context, options.context);
    check_magic_prime(options_.magic_prime, count, options.context);
    windows_ = options_.magic_prime;
  } else {
    options_.magic_prime = 0;
    // One window less than fits, so that every offset of an epoch leaves room.
    windows_ = std::max<int64_t>((count - 1) / options.context - 1, 1);
  }
}

int64_t Loader::start_of(int64_t sample) const {
  if (options_.order == WindowOrder::kMagicPrime) {
    return magic_start(sample, options_.magic_prime, options_.context);
  }
  const int64_t epoch = sample / windows_, index = sample % windows_;
  const int64_t room = tokens_.size() - 1 - windows_ * options_.context;
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

int32_t Loader::token(int64_t at) const {
  const int64_t id = tokens_[at];
  check(id >= 0 && id < options_.vocabulary) ||
      fail(
          "token {} of the data is {}: the model has tokens 0 to {}; is the data made with its "
          "tokenizer?",
          at, id, options_.vocabulary - 1);
  return static_cast<int32_t>(id);
}

void Loader::append_at(int64_t start, TrainingBatch& batch) const {
  if (batch.offsets.empty()) batch.offsets.push_back(0);
  for (int64_t i = 0; i < options_.context; ++i) {
    const int32_t id = token(start + i), next = token(start + i + 1);
    // The end of a document is the start of the next: its 0 is read from an empty state.
    if (options_.reset_documents && i > 0 && id == 0) {
      batch.offsets.push_back(static_cast<int64_t>(batch.tokens.size()));
    }
    batch.tokens.push_back(id);
    bool learned = true;
    if (!mask_.empty()) {
      const uint8_t mark = mask_[static_cast<size_t>(start + i + 1)];
      check(mark <= 1) ||
          fail("the mask has {} for token {}: expected 0 or 1", mark, start + i + 1);
      learned = mark == 1;
    }
    batch.targets.push_back(learned ? next : -1);
  }
  batch.offsets.push_back(static_cast<int64_t>(batch.tokens.size()));
}

}  // namespace rookery
