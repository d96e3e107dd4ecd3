// The GPU as the rest of the program sees it: plain C++, there in every build. A build without CUDA
// (runtime_absent.cc) answers that it has none. One process uses one GPU, and one stream: what is
// asked for happens in order.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

struct CUstream_st;  // as CUDA declares it

namespace rookery::cuda {

// Whether this build has kernels.
bool built();
// Empty when a GPU can be used; else what is missing, as a sentence part.
const std::string& unavailable();
// Throws Error, with the reason, when no GPU can be used.
void require();

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory = 0;  // bytes
};
const DeviceInfo& device_info();
int64_t free_memory();

// Zeroed. Throw Error when there is not so much.
void* allocate(int64_t bytes);
void* allocate_pinned(int64_t bytes);
void deallocate(void* data) noexcept;
void deallocate_pinned(void* data) noexcept;

// The stream of this process; null without a GPU.
CUstream_st* stream();
// Waits for all that was asked for. Throws Error when a kernel failed.
void synchronize();

bool is_device_memory(const void* data);
// Any of the two may be the GPU's; comes back when it is done.
void copy(void* to, const void* from, int64_t bytes);
// In the stream's order, without waiting; host memory should be pinned.
void copy_in_order(void* to, const void* from, int64_t bytes);
void zero_in_order(void* data, int64_t bytes);
// Reads memory end to end, to learn how fast that is.
void read_in_order(const void* data, int64_t bytes);

// A sequence of launches that is recorded once and then launched as a whole.
class Graph {
 public:
  Graph();
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  // What is asked of the stream between begin() and end() is recorded, not done.
  void begin();
  void end();
  // Gives up a recording that failed half-way.
  void abandon() noexcept;
  bool recorded() const;
  void launch();
  void reset();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Milliseconds between two points of the stream.
class Timer {
 public:
  Timer();
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start();
  // Waits for the end.
  double stop();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace rookery::cuda
