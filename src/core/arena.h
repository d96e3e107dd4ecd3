// Memory for the values of one step. Allocation moves a pointer; release() goes back to a mark;
// reset() goes back to the start, so that every step of the same shape sees the same addresses.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace rookery {

// Zeroed memory straight from the system, in huge pages where the system has them (a model's
// weights are read end to end for every token: with 4 KiB pages the TLB would be the limit).
// Move-only.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class Arena {
 public:
  static constexpr int64_t kAlignment = 128;

  // A planning arena hands out addresses that nobody may touch and only counts (Device::kMeta).
  explicit Arena(bool planning = false) : planning_(planning) {}

  // Contents are undefined. 128-byte aligned.
  void* allocate(int64_t bytes);
  TensorView make(const Shape& shape, DType dtype);

  struct Mark {
    size_t block = 0;
    int64_t used = 0;
  };
  Mark mark() const { return {block_, used_}; }
  void release(const Mark& mark);
  void reset() { release({}); }
  // Gets one block of this size now, so that later allocations neither ask the system nor waste.
  void reserve(int64_t bytes);

  // Most bytes in use at one time since construction.
  int64_t peak() const { return peak_; }

 private:
  bool planning_;
  std::vector<Memory> blocks_;
  size_t block_ = 0;  // the block in use
  int64_t used_ = 0;  // bytes used of it
  int64_t full_ = 0;  // bytes of the blocks before it
  int64_t peak_ = 0;
};

// Releases what was allocated since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace rookery
