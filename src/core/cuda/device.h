// GPUs as the rest of the program sees them: plain C++, present in every build. A build without
// CUDA (device_absent.cc) answers that it has none.
//
// A Device never changes once it is open, so every host thread may use it. Work goes to a Stream,
// in order; a stream belongs to one host thread at a time and has its own scratch memory, so that
// several host threads, each with its own Context, do not disturb each other.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <typeindex>

struct CUstream_st;  // as CUDA declares it

namespace rookery::cuda {

// Whether this build has kernels.
bool built();
// Empty when this GPU can be used; else what is missing, as a sentence part.
const std::string& unavailable(int index = 0);
// Throws Error, with the reason, when this GPU cannot be used.
void require(int index = 0);

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory = 0;  // bytes
};

// One GPU of this machine.
class Device {
 public:
  // GPU number `index`, from 0 on; the first call opens it. Throws Error, with the reason, when it
  // cannot be used.
  static const Device& get(int index);

  Device(int index, DeviceInfo info, CUstream_st* copies)
      : index_(index), info_(std::move(info)), copies_(copies) {}
  int index() const { return index_; }
  const DeviceInfo& info() const { return info_; }
  int64_t free_memory() const;  // bytes
  // Sends this host thread's launches to this GPU. Needed before every launch, because a thread may
  // serve several GPUs in turn.
  void make_current() const;

  // Zeroed, and ready for every stream. Throw Error when there is not that much.
  void* allocate(int64_t bytes) const;
  void* allocate_pinned(int64_t bytes) const;
  // Returns when the bytes are there; either side may be this GPU's memory. Waits for no other
  // stream: whoever wrote `from` or still reads `to` must have finished.
  void copy(void* to, const void* from, int64_t bytes) const;

 private:
  int index_;
  DeviceInfo info_;
  CUstream_st* copies_;  // of allocate() and copy()
};

// No stream may still use the memory: a Stream waits for its work when it is destroyed, so its
// owner declares it after the memory.
void deallocate(void* data) noexcept;
void deallocate_pinned(void* data) noexcept;

bool is_device_memory(const void* data);
// Device::copy() on the GPU that `to` or `from` belongs to; at least one of them must be a GPU's.
void copy(void* to, const void* from, int64_t bytes);

// Work of one GPU that is done in order. Waits for it when destroyed.
class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const Device& device() const { return device_; }
  CUstream_st* handle() const { return handle_; }
  // Waits for everything so far. Throws Error when a kernel failed.
  void wait() const;
  // In order, without waiting; host memory should be pinned.
  void copy(void* to, const void* from, int64_t bytes) const;
  void zero(void* data, int64_t bytes) const;
  // Reads memory end to end, to learn how fast that is.
  void read(const void* data, int64_t bytes) const;

  // What an operator keeps for this stream from call to call, such as a library's handle and its
  // scratch memory: T(*this), made when it is first asked for and destroyed with the stream.
  template <class T>
  T& kept() {
    std::shared_ptr<void>& place = kept_[std::type_index(typeid(T))];
    if (place == nullptr) place = std::make_shared<T>(*this);
    return *static_cast<T*>(place.get());
  }

 private:
  const Device& device_;
  CUstream_st* handle_ = nullptr;
  std::map<std::type_index, std::shared_ptr<void>> kept_;
};

// Milliseconds between two points of a stream, which must outlive this.
class Timer {
 public:
  explicit Timer(const Stream& stream);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start();
  // Waits for the end.
  double stop();

 private:
  struct Parts;
  const Stream& stream_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace rookery::cuda
