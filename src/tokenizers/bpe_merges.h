// Byte-pair encoding of one piece of text: as long as two neighbours can be merged, the pair of
// lowest rank is, the leftmost of equals.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rookery {

// Constant after construction.
class BpeMerges {
 public:
  struct Merge {
    int32_t left, right, made;  // ids >= 0
  };

  BpeMerges() : BpeMerges(std::span<const Merge>()) {}
  // A merge's rank is its index. Throws Error if a pair occurs twice.
  explicit BpeMerges(std::span<const Merge> merges);

  // Merges the symbols in place; returns how many are left, at the beginning. Takes n log n time.
  int64_t apply(std::span<int32_t> symbols) const;

  // Pieces up to this long are merged by looking at all pairs again and again, which is faster.
  static constexpr int64_t kShort = 48;

  int64_t count() const { return count_; }

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Slot {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = kNone;
    int32_t made = -1;
  };

  const Slot& find(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    // The slots are at least twice as many as the pairs: an empty one ends each search.
    uint64_t at = (pair * 0x9E3779B97F4A7C15ull) >> shift_;
    while (slots_[at].pair != pair && slots_[at].rank != kNone) at = (at + 1) & mask_;
    return slots_[at];
  }
  int64_t apply_short(std::span<int32_t> symbols) const;
  int64_t apply_long(std::span<int32_t> symbols) const;

  std::vector<Slot> slots_;
  int shift_ = 0;
  uint64_t mask_ = 0;
  int64_t count_ = 0;
};

}  // namespace rookery
