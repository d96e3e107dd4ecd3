// Recurrent operators that are parallel over time read their rows once: a block takes the sequences
// that start in its range of rows, one after the other, in rounds, in which each of its warps has a
// tile of rows. For few long sequences the blocks of a cluster share a round. Only .cu files
// include this.
//
// With Sequences::window, what is launched depends on the numbers of rows and of a window alone,
// not on where sequences begin and end, which kernels find in memory: a captured graph serves other
// sequences, too.
#pragma once

#include <algorithm>

#include "core/cuda/cluster.cuh"
#include "core/cuda/sequence.cuh"

namespace rookery::cuda {

// A block's way through the rounds of its sequences, which are taken in order, with their rounds
// from the first on (kStep 1) or the last on (-1). All threads of a block, or cluster, agree.
template <int kStep>
struct Rounds {
  const DeviceSequences& sequences;
  int last;  // where the range ends
  int size;  // rows of a round
  int sequence, begin, end;
  int row;             // where the round begins
  bool there = false;  // whether there is one

  // The sequences that start in range number `index` of `rows` rows, cut into ranges of `range`.
  __device__ Rounds(const DeviceSequences& sequences, int index, int range, int rows, int size)
      : sequences(sequences), last(min((index + 1) * range, rows)), size(size) {
    int start = index * range;
    if (start >= last) return;
    const int before = sequences.of_row[start];
    if (sequences.offsets[before] < start) {
      start = static_cast<int>(sequences.offsets[before + 1]);
    }
    enter(start);
  }
  __device__ void enter(int start) {
    there = start < last;
    if (!there) return;
    sequence = sequences.of_row[start];
    begin = start, end = static_cast<int>(sequences.offsets[sequence + 1]);
    row = kStep > 0 ? begin : begin + (end - 1 - begin) / size * size;
  }
  __device__ void advance() {
    row += kStep * size;
    if (kStep > 0 ? row >= end : row < begin) enter(end);
  }
  __device__ bool at_begin() const { return row == begin; }
  __device__ bool at_end() const { return row + size >= end; }
  // Rows of the round from its row `offset` on, `most` of them at most.
  __device__ int rows_at(int offset, int most) const {
    return min(max(end - row - offset, 0), most);
  }
};

// Calls body(sequence, begin, end) for each sequence that starts in rows first .. past - 1.
template <class Body>
__device__ __forceinline__ void for_sequences_starting_in(const DeviceSequences& sequences,
                                                          int64_t first, int64_t past,
                                                          const Body& body) {
  for (int64_t start = first; start < past; ++start) {
    const int sequence = sequences.of_row[start];
    if (sequences.offsets[sequence] != start) continue;
    body(sequence, start, sequences.offsets[sequence + 1]);
  }
}

// Of a launch: how sequences are spread over blocks, and how many blocks share one.
struct Spread {
  int64_t range;  // rows
  int cluster = 1;
  dim3 grid;

  // A block takes `round` rows of `channels` channels in a round.
  Spread(const Sequences& sequences, int64_t rows, int64_t width, int channels, int round,
         const ClusterCounts& at_once) {
    const int64_t count = std::max<int64_t>(sequences.count, 1);
    // When all are of one length, each has a range of its own. A captured launch serves other
    // sequences too: wherever they start, somebody has them.
    constexpr int64_t kLeast = 64, kMost = 65535 / kLargestCluster;
    const int64_t length = sequences.window > 0 ? sequences.window : ceil_div(rows, count);
    range = std::max({length, kLeast, ceil_div(rows, kMost)});
    const int64_t ranges = ceil_div(rows, range), groups = ceil_div(width, channels);
    // The most blocks that share a sequence while all still run at the same time.
    const int64_t most = longest(sequences);
    for (int size = 2; size <= kLargestCluster && (size - 1) * round < most; ++size) {
      if (ranges * groups <= at_once[size]) cluster = size;
    }
    grid = dim3(static_cast<unsigned>(groups), static_cast<unsigned>(ranges * cluster));
  }
};

// Rounds count rows, channels and blocks with 32 bits.
inline void check_walk_size(const char* op, int64_t rows, int64_t width) {
  check(rows < int64_t{1} << 30 && width < int64_t{1} << 28 && rows * width < int64_t{1} << 40) ||
      fail("{}: {} tokens of {} channels are too many for one call on the GPU", op, rows, width);
}

}  // namespace rookery::cuda
