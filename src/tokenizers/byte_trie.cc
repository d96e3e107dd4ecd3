// Places the nodes of the trie breadth first, so that the short beginnings which most searches pass
// through lie together. A node goes to the first place where its children's cells are free.
#include "tokenizers/byte_trie.h"

#include <algorithm>

#include "core/error.h"

namespace rookery {
namespace {

constexpr int64_t kMostNodes = int64_t{1} << 24;
// How many places are tried for one node before it goes behind all others. Few are needed: most
// nodes have one child, which fits almost everywhere.
constexpr int kMostTries = 256;

// Free cells, in order, as a linked list; and which bases are taken.
class Places {
 public:
  // The first 256 cells stay unused: a node without children has base 0, where nothing matches.
  Places() {
    grow(256);
    for (int64_t cell = 0; cell < 256; ++cell) remove(cell);
    base_taken_[0] = true;
  }
  // The first base where all the labels (ascending) find free cells; they are taken.
  int64_t take(std::span<const uint8_t> labels) {
    int64_t base = -1;
    int tries = 0;
    for (int64_t cell = first_; cell < size(); cell = next_[cell]) {
      if (++tries > kMostTries) {
        // The cells at the front are what others could not use: give them up.
        first_ = next_[first_];
        break;
      }
      const int64_t candidate = cell - labels[0];
      if (candidate >= 0 && !base_taken_[candidate] && all_free(candidate, labels)) {
        base = candidate;
        break;
      }
    }
    if (base < 0) base = std::max<int64_t>(0, size() - labels[0]);
    while (base < size() && base_taken_[base]) ++base;
    grow(base + 256);
    base_taken_[base] = true;
    for (const uint8_t label : labels) remove(base + label);
    return base;
  }
  int64_t size() const { return static_cast<int64_t>(free_.size()); }

 private:
  bool all_free(int64_t base, std::span<const uint8_t> labels) const {
    return std::all_of(labels.begin(), labels.end(), [&](uint8_t label) {
      return base + label >= size() || free_[base + label];
    });
  }
  // `base_taken_` has an element for each cell, as bases lie in front of their children.
  void grow(int64_t cells) {
    while (size() < cells) {
      const int64_t cell = size();
      free_.push_back(true);
      base_taken_.push_back(false);
      next_.push_back(cell + 1);
      before_.push_back(last_free_);
      if (last_free_ >= 0) next_[last_free_] = cell;
      last_free_ = cell;
    }
  }
  void remove(int64_t cell) {
    free_[cell] = false;
    if (before_[cell] >= 0) next_[before_[cell]] = next_[cell];
    if (next_[cell] < size()) before_[next_[cell]] = before_[cell];
    if (first_ == cell) first_ = next_[cell];
    if (last_free_ == cell) last_free_ = before_[cell];
  }

  std::vector<bool> free_, base_taken_;
  std::vector<int64_t> next_, before_;
  int64_t first_ = 0, last_free_ = -1;
};

// The entries from begin to end (sorted) begin with the same `depth` bytes.
struct Node {
  int64_t begin, end, depth, cell;  // cell -1: the root
};

}  // namespace

ByteTrie::ByteTrie(std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.bytes < b.bytes; });
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    check(entry.id >= 0 && entry.id <= kLargestId) ||
        fail("token {}: expected ids from 0 to {}", entry.id, kLargestId);
    check(!entry.bytes.empty() && static_cast<int64_t>(entry.bytes.size()) <= kLongestEntry) ||
        fail("token {} has {} bytes: expected 1 to {}", entry.id, entry.bytes.size(),
             kLongestEntry);
    if (i > 0 && entries[i - 1].bytes == entry.bytes) {
      fail("tokens {} and {} have the same bytes: expected each string once",
           std::min(entries[i - 1].id, entry.id), std::max(entries[i - 1].id, entry.id));
    }
  }

  Places places;
  std::vector<uint64_t> cells;
  std::vector<Node> nodes;  // a queue
  nodes.push_back({0, static_cast<int64_t>(entries.size()), 0, -1});
  std::vector<uint8_t> labels;
  std::vector<int64_t> begins;
  for (size_t at = 0; at < nodes.size(); ++at) {
    const Node node = nodes[at];
    // Sorted: an entry that ends at this node is the first of them.
    int64_t begin = node.begin;
    if (begin < node.end && static_cast<int64_t>(entries[begin].bytes.size()) == node.depth) {
      cells[node.cell] |= static_cast<uint64_t>(entries[begin].id) + 1;
      ++begin;
    }
    labels.clear();
    begins.clear();
    for (int64_t i = begin; i < node.end;) {
      const uint8_t label = static_cast<uint8_t>(entries[i].bytes[node.depth]);
      labels.push_back(label);
      begins.push_back(i);
      // A binary search, because a million entries may share this byte.
      i = std::upper_bound(entries.begin() + i, entries.begin() + node.end, label,
                           [&](uint8_t byte, const Entry& entry) {
                             return byte < static_cast<uint8_t>(entry.bytes[node.depth]);
                           }) -
          entries.begin();
    }
    if (labels.empty()) continue;  // base 0, where nothing matches
    begins.push_back(node.end);
    check(static_cast<int64_t>(nodes.size() + labels.size()) <= kMostNodes) ||
        fail("the vocabulary has more than {} different beginnings of tokens: it is too large",
             kMostNodes);
    const int64_t base = places.take(labels);
    cells.resize(places.size());
    if (node.cell >= 0) {
      cells[node.cell] |= static_cast<uint64_t>(base) << kBaseShift;
    } else {
      root_ = static_cast<uint64_t>(base) << kBaseShift;
    }
    for (size_t i = 0; i < labels.size(); ++i) {
      cells[base + labels[i]] = (static_cast<uint64_t>(labels[i]) + 1) << kLabelShift;
      nodes.push_back({begins[i], begins[i + 1], node.depth + 1, base + labels[i]});
    }
  }
  if (!cells.empty()) cells_ = std::move(cells);
}

}  // namespace rookery
