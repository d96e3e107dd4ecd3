#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/cuda/device.h"

namespace rookery {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kBlock = int64_t{32} << 20;

int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

}  // namespace

Memory::Memory(int64_t bytes, MemoryKind kind) : kind_(kind) {
  check(bytes >= 0 && bytes < (int64_t{1} << 46)) || fail("cannot allocate {} bytes", bytes);
  if (bytes == 0 || kind == MemoryKind::kPlan) return;
  if (kind != MemoryKind::kHost) {
    const cuda::Device& gpu = cuda::Device::get(kind.gpu);
    data_ = kind == MemoryKind::kDevice ? gpu.allocate(bytes) : gpu.allocate_pinned(bytes);
    bytes_ = bytes;
    return;
  }
  // Small regions stay on small pages: a 40 KiB state should not cost 2 MiB.
  const bool huge = bytes >= 2 * kHugePage;
  const int64_t rounded = round_up(bytes, huge ? kHugePage : 4096);
  const int64_t mapped = huge ? rounded + kHugePage : rounded;
  void* p = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(p != MAP_FAILED) ||
      fail("the system has no {:.1f} MiB of memory left: use a smaller model, batch or context",
           bytes / 1048576.0);
  if (huge) {  // keep a part that starts on a huge page
    const auto start = reinterpret_cast<uintptr_t>(p);
    const auto aligned = static_cast<uintptr_t>(round_up(static_cast<int64_t>(start), kHugePage));
    if (aligned != start) ::munmap(p, aligned - start);
    const uintptr_t tail = start + mapped - (aligned + rounded);
    if (tail != 0) ::munmap(reinterpret_cast<void*>(aligned + rounded), tail);
    p = reinterpret_cast<void*>(aligned);
    ::madvise(p, rounded, MADV_HUGEPAGE);
  }
  data_ = p;
  bytes_ = rounded;
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  switch (kind_.kind) {
    case MemoryKind::kDevice:
      cuda::deallocate(data_);
      break;
    case MemoryKind::kPinned:
      cuda::deallocate_pinned(data_);
      break;
    default:
      ::munmap(data_, bytes_);
  }
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(kind_, other.kind_);
  return *this;
}

void copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  if (cuda::is_device_memory(to) || cuda::is_device_memory(from))
    return cuda::copy(to, from, bytes);
  std::memcpy(to, from, bytes);
}

void Arena::reserve(int64_t bytes) {
  if (kind_ == MemoryKind::kPlan || bytes <= 0) return;
  assert(block_ == 0 && used_ == 0);
  blocks_.clear();
  blocks_.emplace_back(bytes, kind_);
}

void* Arena::allocate(int64_t bytes) {
  const int64_t size = round_up(std::max<int64_t>(bytes, 1), kAlignment);
  if (kind_ == MemoryKind::kPlan) {
    // Starts at one alignment, so that no address is null.
    void* p = reinterpret_cast<void*>(static_cast<uintptr_t>(kAlignment + used_));
    used_ += size;
    peak_ = std::max(peak_, used_);
    return p;
  }
  while (block_ < blocks_.size() && used_ + size > blocks_[block_].bytes()) {
    full_ += blocks_[block_].bytes();
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) blocks_.emplace_back(std::max(size, kBlock), kind_);
  void* p = static_cast<char*>(blocks_[block_].data()) + used_;
  used_ += size;
  peak_ = std::max(peak_, full_ + used_);
  return p;
}

TensorView Arena::make(const Shape& shape, DType dtype) {
  return {allocate(shape.count() * size_of(dtype)), dtype, shape};
}

void Arena::release(const Mark& mark) {
  while (block_ > mark.block) full_ -= blocks_[--block_].bytes();
  used_ = mark.used;
}

}  // namespace rookery
