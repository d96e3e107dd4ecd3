// Finds the longest of many byte strings that a text begins with: a trie in a double array. The
// node reached from node n by byte b is cell base(n) + b, if that cell says that b leads to it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace rookery {

// Constant after construction. A step from byte to byte is one load of 8 bytes, so that the nodes
// of common text stay in the cache: 65,529 entries of the World vocabulary are about 1 MB.
class ByteTrie {
 public:
  // Entries and ids: the bounds of what a trie can hold. Longer entries would allow texts in which
  // each token costs a search of that length.
  static constexpr int64_t kLongestEntry = 1024;
  static constexpr int64_t kLargestId = (int64_t{1} << 24) - 1;

  struct Entry {
    std::string_view bytes;  // needed by the constructor only
    int32_t id = 0;
  };

  ByteTrie() = default;
  // Throws Error if an entry is empty or longer than kLongestEntry, an id is outside of 0 to
  // kLargestId, two entries have the same bytes, or there are more than 2^24 different beginnings.
  explicit ByteTrie(std::vector<Entry> entries);

  struct Match {
    int32_t id = -1;     // -1: the text begins with no entry
    int32_t length = 0;  // bytes
  };

  // The longest entry that the bytes from `at` on begin with.
  Match longest(const char* at, const char* end) const {
    Match match;
    uint64_t cell = root_;
    for (const char* next = at; next != end;) {
      const uint64_t byte = static_cast<uint8_t>(*next);
      cell = cells_[(cell >> kBaseShift) + byte];
      if (((cell >> kLabelShift) & kLabelMask) != byte + 1) break;
      ++next;
      const uint64_t id = cell & kIdMask;
      if (id != 0) match = {static_cast<int32_t>(id) - 1, static_cast<int32_t>(next - at)};
    }
    return match;
  }

  int64_t bytes() const { return static_cast<int64_t>(cells_.size() * sizeof(uint64_t)); }

 private:
  // A cell: 30 bits where its children begin, 9 bits the byte that leads to it + 1 (0: unused), 25
  // bits the id of the entry that ends here + 1 (0: none). No two nodes have the same base, so that
  // the byte alone says whose child a cell is.
  static constexpr int kBaseShift = 34, kLabelShift = 25;
  static constexpr uint64_t kLabelMask = 0x1FF, kIdMask = (uint64_t{1} << 25) - 1;

  std::vector<uint64_t> cells_ = std::vector<uint64_t>(256);
  uint64_t root_ = 0;
};

}  // namespace rookery
