// Small data that the host writes and kernels read, at addresses that stay: pinned memory here, and
// a copy on the GPU that one transfer brings up to date. Without a GPU it is plain memory.
#pragma once

#include "core/arena.h"
#include "core/context.h"

namespace rookery {

class Mirror {
 public:
  // For this device. Grows to hold so many bytes; contents are lost when it grows. Returns whether
  // the addresses changed.
  bool reserve(Device device, int64_t bytes) {
    if (here_.data() != nullptr && here_.bytes() >= bytes && device == device_) return false;
    device_ = device;
    const bool on_gpu = device == Device::kCuda;
    here_ = Memory(bytes, host_memory_of(device));
    there_ = on_gpu ? Memory(bytes, memory_of(device)) : Memory();
    return true;
  }
  // Writable, at this many bytes from the start.
  template <class T>
  T* at(int64_t offset) {
    return reinterpret_cast<T*>(static_cast<char*>(here_.data()) + offset);
  }
  template <class T>
  Mirrored<T> mirrored(int64_t offset) const {
    const auto* here = reinterpret_cast<const T*>(static_cast<const char*>(here_.data()) + offset);
    const auto* there =
        there_.data() == nullptr
            ? nullptr
            : reinterpret_cast<const T*>(static_cast<const char*>(there_.data()) + offset);
    return {here, there};
  }
  // Brings the first `bytes` up to date on the GPU, in the order of the context's work. What is
  // here must not change before the GPU has read it.
  void send(const Context& ctx, int64_t bytes) const {
    if (there_.data() != nullptr) ctx.copy(there_.data(), here_.data(), bytes);
  }
  // Lays out one array after the other, each at a multiple of 16: returns where it begins.
  static int64_t advance(int64_t& end, int64_t bytes) {
    const int64_t begin = end;
    end += (bytes + 15) / 16 * 16;
    return begin;
  }

 private:
  Device device_ = Device::kCpu;
  Memory here_, there_;
};

}  // namespace rookery
