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

// What blocks tell each other in a round: a Part of each. Twice, because a warp may be in the next
// round while another still reads that of this one. In shared memory.
template <class Part>
struct ClusterParts {
  Part of_block[2][kLargestCluster];
  Arrivals arrivals[2];

  // By all threads, before the first round.
  __device__ void init(const Cluster& cluster) {
    if (cluster.size == 1) return;
    if (threadIdx.x == 0) arrivals[0].init(), arrivals[1].init();
    cluster.meet();
  }
};

// How many clusters of each size, from 1 on, run at the same time; 0 for sizes that the GPU does
// not have.
using ClusterCounts = std::array<int, kLargestCluster + 1>;

// A kernel of kThreads threads whose blocks may form clusters along y of the grid. It needs kAlone
// bytes of dynamic shared memory where a block is by itself, kTogether in a cluster. Kept by a
// stream (Stream::kept), so that each GPU is asked once; the kernel is allowed its memory once,
// too, because another host thread may be launching it.
template <auto kKernel, int kThreads, int64_t kAlone, int64_t kTogether>
class ClusterKernel {
 public:
  explicit ClusterKernel(const Stream& stream) {
    stream.device().make_current();
    const bool has_clusters = stream.device().info().major >= 9;
    check_cuda(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(has_clusters ? kTogether : kAlone)),
               "a kernel's shared memory");
    for (int size = 1; size <= kLargestCluster && has_clusters; ++size) {
      cudaLaunchAttribute cluster = cluster_of(size);
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(1, static_cast<unsigned>(size));
      config.blockDim = dim3(static_cast<unsigned>(kThreads));
      config.dynamicSmemBytes = static_cast<size_t>(kTogether);
      config.attrs = &cluster;
      config.numAttrs = 1;
      if (cudaOccupancyMaxActiveClusters(&at_once_[size], kKernel, &config) != cudaSuccess) {
        at_once_[size] = 0;
        cudaGetLastError();
      }
    }
  }

  const ClusterCounts& at_once() const { return at_once_; }

  // In clusters of `size` blocks, which divides grid.y. Without clusters in the GPU it must be 1.
  template <class... Arguments>
  void launch(const char* op, dim3 grid, int size, const Context& ctx,
              Arguments&&... arguments) const {
    cudaLaunchAttribute cluster = cluster_of(size);
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(kThreads));
    config.dynamicSmemBytes = static_cast<size_t>(size > 1 ? kTogether : kAlone);
    config.stream = stream(ctx);
    config.attrs = &cluster;
    config.numAttrs = size > 1 ? 1 : 0;
    check_cuda(cudaLaunchKernelEx(&config, kKernel, std::forward<Arguments>(arguments)...), op);
  }

 private:
  static cudaLaunchAttribute cluster_of(int size) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = cluster.val.clusterDim.z = 1;
    cluster.val.clusterDim.y = static_cast<unsigned>(size);
    return cluster;
  }

  ClusterCounts at_once_{};
};

}  // namespace rookery::cuda
