// Blocks that run at the same time and write into each other's shared memory: thread block
// clusters, from compute capability 9.0 on. Elsewhere every block is a cluster of its own.
#pragma once

#include <cooperative_groups.h>

#include <array>
#include <cuda/ptx>

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

// What every GPU with clusters can schedule.
constexpr int kLargestCluster = 8;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

struct Cluster {
  int rank, size;
  __device__ Cluster()
      : rank(static_cast<int>(cooperative_groups::this_cluster().block_rank())),
        size(static_cast<int>(cooperative_groups::this_cluster().num_blocks())) {}
  // For all threads of all blocks: what init() did is seen by all. Orders nothing else.
  __device__ void meet() const {
    ::cuda::ptx::barrier_cluster_arrive(::cuda::ptx::sem_relaxed);
    ::cuda::ptx::barrier_cluster_wait(::cuda::ptx::sem_acquire);
  }
};

// In shared memory: says when so many bytes, of all blocks of the cluster, have been written to
// this block, time after time.
class Arrivals {
 public:
  // By one thread, before the cluster meets for the first time.
  __device__ void init() {
    ::cuda::ptx::mbarrier_init(&barrier_, 1);
    ::cuda::ptx::fence_mbarrier_init(::cuda::ptx::sem_release, ::cuda::ptx::scope_cluster);
  }
  // By one thread, each time.
  __device__ void expect(int bytes) {
    ::cuda::ptx::mbarrier_arrive_expect_tx(::cuda::ptx::sem_release, ::cuda::ptx::scope_cta,
                                           ::cuda::ptx::space_shared, &barrier_, bytes);
  }
  // By all threads; `round` counts the times from 0.
  __device__ void wait(int round) {
    // In the scope of this block: what arrives lies in its own shared memory. That of the cluster
    // would throw away the first-level cache.
    while (!::cuda::ptx::mbarrier_try_wait_parity(&barrier_, static_cast<uint32_t>(round & 1))) {
    }
  }
  // Writes `x` to where the block of that rank has what is at `to` here, and counts it there.
  template <int kCount>
  __device__ void send(const float (&x)[kCount], float* to, int rank) {
    const auto cluster = cooperative_groups::this_cluster();
    float* const there = cluster.map_shared_rank(to, rank);
    uint64_t* const barrier = cluster.map_shared_rank(&barrier_, rank);
    if constexpr (kCount == 1) {
      ::cuda::ptx::st_async(there, x[0], barrier);
    } else {
      ::cuda::ptx::st_async(there, x, barrier);
    }
  }

 private:
  uint64_t barrier_;
};

#else

struct Cluster {
  static constexpr int rank = 0, size = 1;
  __device__ void meet() const {}
};

// Never used: there is one block.
class Arrivals {
 public:
  __device__ void init() {}
  __device__ void expect(int) {}
  __device__ void wait(int) {}
  template <int kCount>
  __device__ void send(const float (&)[kCount], float*, int) {}

 private:
  uint64_t barrier_;
};

#endif

// How many clusters of each size, from 1 on, run at the same time: of a kernel with so many
// threads, and as much dynamic shared memory when in a cluster. 0 for sizes that the GPU does not
// have. Allows the kernel that much memory, which comes before its first launch_clusters().
template <class... Parameters>
std::array<int, kLargestCluster + 1> clusters_at_once(const Device& device,
                                                      void (*kernel)(Parameters...), int threads,
                                                      int64_t bytes) {
  std::array<int, kLargestCluster + 1> clusters{};
  device.make_current();
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)),
             "clusters");
  if (device.info().major < 9) return clusters;
  for (int size = 1; size <= kLargestCluster; ++size) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = cluster.val.clusterDim.z = 1;
    cluster.val.clusterDim.y = static_cast<unsigned>(size);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1, static_cast<unsigned>(size));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(bytes);
    config.attrs = &cluster;
    config.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&clusters[size], kernel, &config) != cudaSuccess) {
      clusters[size] = 0;
      cudaGetLastError();
    }
  }
  return clusters;
}

// Launches a kernel with `bytes` of dynamic shared memory whose blocks are in clusters of `size`
// along y. Without clusters in the GPU, size must be 1. What the kernel is allowed is not changed
// here: other host threads may be launching it.
template <class... Parameters, class... Arguments>
void launch_clusters(const char* op, void (*kernel)(Parameters...), dim3 grid, int threads,
                     int64_t bytes, int size, const Context& ctx, Arguments&&... arguments) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = 1;
  cluster.val.clusterDim.y = static_cast<unsigned>(size);
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream(ctx);
  config.attrs = &cluster;
  config.numAttrs = size > 1 ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), op);
}

}  // namespace rookery::cuda
