// Memory for the values of one step. Allocation moves a pointer; release() goes back to a mark;
// reset() goes back to the start, so that every step of the same shape sees the same addresses.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace rookery {

// Where memory is.
struct MemoryKind {
  enum Kind : uint8_t {
    kHost,
    kPinned,  // host memory that a GPU copies from and to without a stop in between
    kDevice,  // of a GPU
    kPlan,    // none: addresses that nobody may touch
  };
  Kind kind;
  int gpu;  // its number; of kPinned and kDevice

  constexpr MemoryKind(Kind kind, int gpu = 0) : kind(kind), gpu(gpu) {}  // NOLINT: GPU 0 by itself
  friend constexpr bool operator==(const MemoryKind&, const MemoryKind&) = default;
  // Of any GPU.
  friend constexpr bool operator==(const MemoryKind& a, Kind b) { return a.kind == b; }
};

// Zeroed memory straight from the system, in huge pages where the system has them (a model's
// weights are read end to end for every token: with 4 KiB pages the TLB would be the limit).
// Move-only.
class Memory {
 public:
  Memory() = default;
  // Throws Error when there is not so much, and says how much there is of the GPU's.
  explicit Memory(int64_t bytes, MemoryKind kind = MemoryKind::kHost);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  MemoryKind kind() const { return kind_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  MemoryKind kind_ = MemoryKind::kHost;
};

// Bytes between tensors wherever they are; returns when they are there. A GPU's work on them must
// have been waited for (Context::wait).
void copy_bytes(void* to, const void* from, int64_t bytes);

class Arena {
 public:
  static constexpr int64_t kAlignment = 128;

  // An arena of kPlan only counts (Device::kMeta).
  explicit Arena(MemoryKind kind = MemoryKind::kHost) : kind_(kind) {}

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

  MemoryKind kind() const { return kind_; }
  // Most bytes in use at one time since construction.
  int64_t peak() const { return peak_; }

 private:
  MemoryKind kind_;
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
