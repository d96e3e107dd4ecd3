#include "tokenizers/bpe_merges.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>

#include "core/error.h"

namespace rookery {

BpeMerges::BpeMerges(std::span<const Merge> merges) : count_(static_cast<int64_t>(merges.size())) {
  check(count_ < kNone) || fail("{} merges: expected fewer than {}", count_, kNone);
  const uint64_t slots = std::bit_ceil(std::max<uint64_t>(2 * merges.size() + 1, 16));
  slots_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    Slot& slot = const_cast<Slot&>(find(merge.left, merge.right));
    check(slot.rank == kNone) ||
        fail("merges {} and {} are the same: expected each pair once", slot.rank, rank);
    slot = {static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right),
            static_cast<uint32_t>(rank), merge.made};
  }
}

int64_t BpeMerges::apply(std::span<int32_t> symbols) const {
  const int64_t count = static_cast<int64_t>(symbols.size());
  if (count < 2) return count;
  return count <= kShort ? apply_short(symbols) : apply_long(symbols);
}

int64_t BpeMerges::apply_short(std::span<int32_t> symbols) const {
  std::array<uint32_t, kShort> ranks;  // [i]: of the pair i, i + 1
  int64_t count = static_cast<int64_t>(symbols.size());
  for (int64_t i = 0; i + 1 < count; ++i) ranks[i] = find(symbols[i], symbols[i + 1]).rank;
  while (count > 1) {
    const int64_t best = std::min_element(ranks.begin(), ranks.begin() + count - 1) - ranks.begin();
    if (ranks[best] == kNone) break;
    symbols[best] = find(symbols[best], symbols[best + 1]).made;
    --count;
    for (int64_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      ranks[i - 1] = ranks[i];
    }
    if (best > 0) ranks[best - 1] = find(symbols[best - 1], symbols[best]).rank;
    if (best + 1 < count) ranks[best] = find(symbols[best], symbols[best + 1]).rank;
  }
  return count;
}

int64_t BpeMerges::apply_long(std::span<int32_t> symbols) const {
  check(symbols.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max())) ||
      fail("a word of {} bytes: expected fewer than {}", symbols.size(),
           std::numeric_limits<int32_t>::max());
  const int32_t count = static_cast<int32_t>(symbols.size());
  // The symbols that are left, as a list: a merge keeps the left one's place.
  std::vector<int32_t> before(count), after(count);
  for (int32_t i = 0; i < count; ++i) {
    before[i] = i - 1;
    after[i] = i + 1;
  }
  // Pairs by rank, then place. An entry is out of date if that place has a pair of another rank
  // now.
  std::vector<uint64_t> heap;
  const auto rank_at = [&](int32_t i) {
    return after[i] < count ? find(symbols[i], symbols[after[i]]).rank : kNone;
  };
  for (int32_t i = 0; i + 1 < count; ++i) {
    if (const uint32_t rank = rank_at(i); rank != kNone) {
      heap.push_back(static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(i));
    }
  }
  const auto later = std::greater<uint64_t>();
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](int32_t i) {
    const uint32_t rank = rank_at(i);
    if (rank == kNone) return;
    heap.push_back(static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(i));
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const int32_t i = static_cast<int32_t>(top & 0xFFFFFFFF);
    if (symbols[i] < 0 || rank_at(i) != top >> 32) continue;
    const int32_t gone = after[i];
    symbols[i] = find(symbols[i], symbols[gone]).made;
    symbols[gone] = -1;
    after[i] = after[gone];
    if (after[i] < count) before[after[i]] = i;
    if (before[i] >= 0) push(before[i]);
    push(i);
  }
  return std::remove(symbols.begin(), symbols.end(), -1) - symbols.begin();
}

}  // namespace rookery
