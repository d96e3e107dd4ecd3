// GPUs through cudart, which is linked statically: the program starts where no driver is.

#include "core/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "core/cuda/launch.cuh"
#include "core/error.h"

namespace rookery::cuda {
namespace {

struct Opened {
  std::string unavailable;
  std::unique_ptr<const Device> device;
};

// Until a GPU was opened, no memory is a GPU's, and nobody has to ask the driver.
std::atomic<bool> any_opened{false};

Opened open_device(int index) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    cudaGetLastError();
    return {found == cudaErrorInsufficientDriver
                ? "there is no NVIDIA driver, or it is too old for this program (CUDA 13 needs "
                  "driver 580 or later); use --device cpu"
                : fmt::format("this machine shows no NVIDIA GPU ({}); use --device cpu",
                              cudaGetErrorString(found)),
            nullptr};
  }
  if (index < 0 || index >= count) {
    return {
        fmt::format("there is no GPU number {}: this machine has {}, counted from 0", index, count),
        nullptr};
  }
  cudaDeviceProp properties{};
  cudaStream_t copies = nullptr;
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess) error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking);
  if (error == cudaSuccess) {
    cudaFuncAttributes attributes{};
    error = cudaFuncGetAttributes(&attributes, probe_kernel);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();
    return {fmt::format(
                "the GPU '{}' (compute capability {}.{}) cannot run this program's kernels ({}); "
                "build it for this GPU, or use --device cpu",
                properties.name, properties.major, properties.minor, cudaGetErrorString(error)),
            nullptr};
  }
  any_opened = true;
  DeviceInfo info{properties.name, properties.major, properties.minor,
                  properties.multiProcessorCount, static_cast<int64_t>(properties.totalGlobalMem)};
  return {"", std::make_unique<const Device>(index, std::move(info), copies)};
}

// The list is never destroyed: memory that outlives main() may still be given back.
const Opened& opened(int index) {
  static std::mutex mutex;
  static auto* const all = new std::map<int, Opened>();
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = all->try_emplace(index);
  if (is_new) found->second = open_device(index);
  return found->second;
}

// The GPU whose memory this is; -1: the processor's.
int gpu_of(const void* data) {
  if (data == nullptr || !any_opened) return -1;
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeDevice ? attributes.device : -1;
}

}  // namespace

__global__ void probe_kernel() {}

void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();
  fail("the GPU failed in {}: {}", what, cudaGetErrorString(error));
}

bool built() { return true; }
const std::string& unavailable(int index) { return opened(index).unavailable; }
void require(int index) {
  check(unavailable(index).empty()) || fail("no GPU can be used: {}", unavailable(index));
}

const Device& Device::get(int index) {
  require(index);
  return *opened(index).device;
}

void Device::make_current() const { check_cuda(cudaSetDevice(index_), "cudaSetDevice"); }

int64_t Device::free_memory() const {
  make_current();
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(free);
}

void* Device::allocate(int64_t bytes) const {
  make_current();
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(
        "the GPU has no {:.2f} GiB of memory left ({:.2f} of {:.2f} GiB are free): use a smaller "
        "model, batch or context, or --gradient-checkpointing",
        static_cast<double>(bytes) / (1 << 30), static_cast<double>(free_memory()) / (1 << 30),
        static_cast<double>(info_.memory) / (1 << 30));
  }
  check_cuda(error, "cudaMalloc");
  check_cuda(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), copies_), "cudaMemsetAsync");
  check_cuda(cudaStreamSynchronize(copies_), "cudaMemsetAsync");
  return data;
}

void* Device::allocate_pinned(int64_t bytes) const {
  make_current();
  void* data = nullptr;
  check_cuda(cudaMallocHost(&data, static_cast<size_t>(bytes)), "cudaMallocHost");
  std::fill_n(static_cast<char*>(data), bytes, 0);
  return data;
}

void Device::copy(void* to, const void* from, int64_t bytes) const {
  if (bytes == 0) return;
  make_current();
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, copies_),
             "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(copies_), "cudaMemcpyAsync");
}

void deallocate(void* data) noexcept { cudaFree(data); }
void deallocate_pinned(void* data) noexcept { cudaFreeHost(data); }

bool is_device_memory(const void* data) { return gpu_of(data) >= 0; }

void copy(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  const int index = gpu_of(to);
  Device::get(index >= 0 ? index : gpu_of(from)).copy(to, from, bytes);
}

Stream::Stream(const Device& device) : device_(device) {
  device.make_current();
  check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreate");
}

Stream::~Stream() {
  cudaStreamSynchronize(handle_);
  kept_.clear();
  cudaStreamDestroy(handle_);
}

void Stream::wait() const { check_cuda(cudaStreamSynchronize(handle_), "an earlier kernel"); }

void Stream::copy(void* to, const void* from, int64_t bytes) const {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, handle_),
             "cudaMemcpyAsync");
}

void Stream::zero(void* data, int64_t bytes) const {
  if (bytes == 0) return;
  device_.make_current();
  check_cuda(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), handle_), "cudaMemsetAsync");
}

namespace {

__global__ void read_kernel(const uint4* data, int64_t count, uint32_t* never) {
  uint32_t seen = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {  // four reads on their way at once
    const uint4 a = data[i], b = data[i + step], c = data[i + 2 * step], d = data[i + 3 * step];
    seen ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w;
    seen ^= c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < count; i += step) seen ^= data[i].x ^ data[i].y ^ data[i].z ^ data[i].w;
  // Without a use the reads would be left out.
  if (seen == 0x9e3779b9u && never != nullptr) *never = seen;
}

}  // namespace

void Stream::read(const void* data, int64_t bytes) const {
  device_.make_current();
  const unsigned blocks = 16u * static_cast<unsigned>(device_.info().multiprocessors);
  read_kernel<<<blocks, 256, 0, handle_>>>(static_cast<const uint4*>(data), bytes / 16, nullptr);
  check_launch("reading");
}

struct Timer::Parts {
  cudaEvent_t begin = nullptr, end = nullptr;
};

Timer::Timer(const Stream& stream) : stream_(stream), parts_(std::make_unique<Parts>()) {
  stream.device().make_current();
  check_cuda(cudaEventCreate(&parts_->begin), "cudaEventCreate");
  check_cuda(cudaEventCreate(&parts_->end), "cudaEventCreate");
}
Timer::~Timer() {
  cudaEventDestroy(parts_->begin);
  cudaEventDestroy(parts_->end);
}
void Timer::start() {
  check_cuda(cudaEventRecord(parts_->begin, stream_.handle()), "cudaEventRecord");
}
double Timer::stop() {
  check_cuda(cudaEventRecord(parts_->end, stream_.handle()), "cudaEventRecord");
  check_cuda(cudaEventSynchronize(parts_->end), "an earlier kernel");
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, parts_->begin, parts_->end),
             "cudaEventElapsedTime");
  return milliseconds;
}

}  // namespace rookery::cuda
