// Kernels that treat every element by itself. Memory is their limit: each thread reads 16 bytes at
// once of the narrowest type, twice before it writes. Only .cu files include this.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

// Whether all of these may be read and written 16 bytes at a time; null may.
template <class... Pointers>
bool all_aligned(const Pointers*... pointers) {
  return (is_aligned(pointers, 16) && ...);
}

// Numbers of T in 16 bytes.
template <class T>
constexpr int kPackOf = 16 / sizeof(T);

// Where a kernel writes a gradient; null: not wanted. Throws Error for one of another type, as
// Context::widen_gradient may ask for: the operator does not write it yet.
template <class T>
struct GradientOut {
  T* data;
  bool accumulate;
  explicit GradientOut(const GradView& view)
      : data(static_cast<T*>(view.data)), accumulate(view.accumulate) {
    check(!view || view.dtype == dtype_of<T>()) ||
        fail("a kernel that writes gradients in {} was given one in {}", name_of(dtype_of<T>()),
             name_of(view.dtype));
  }
};
// Adds in float and rounds once. Reads what is there only now: two gradients of one thread may be
// one memory.
template <int kCount, class T>
__device__ __forceinline__ void write_gradient(const GradientOut<T>& out, int64_t i,
                                               const float (&gradient)[kCount]) {
  if (out.data == nullptr) return;
  float sum[kCount];
  if (out.accumulate) {
    load_pack(out.data + i, sum);
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = 0;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) sum[k] += gradient[k];
  store_pack(out.data + i, sum);
}

// Of kernels whose threads keep to some channels: threads of a block (at most 256), and blocks,
// that a row takes with `pack` channels each.
struct RowShape {
  int threads;
  unsigned blocks;
  RowShape(int64_t width, int pack)
      : threads(static_cast<int>(
            std::min<int64_t>(256, ceil_div(ceil_div(width, pack), kWarp) * kWarp))),
        blocks(static_cast<unsigned>(ceil_div(ceil_div(width, pack), threads))) {}
};

constexpr int kElementwiseThreads = 256;
constexpr int kElementwisePacks = 2;  // per thread

// `Op` has kPack, the number of neighbours treated at once; a struct Inputs; load(i, inputs), which
// reads elements i .. i + kPack - 1; and finish(i, inputs), which writes them.
template <class Op>
__global__ void __launch_bounds__(kElementwiseThreads)
    elementwise_kernel(const __grid_constant__ Op op, int64_t count) {
  let_next_begin();
  wait_for_previous();
  constexpr int64_t kStep = int64_t{kElementwiseThreads} * Op::kPack;
  const int64_t first = blockIdx.x * kElementwisePacks * kStep + int64_t{threadIdx.x} * Op::kPack;
  typename Op::Inputs inputs[kElementwisePacks];
#pragma unroll
  for (int p = 0; p < kElementwisePacks; ++p) {
    if (first + p * kStep < count) op.load(first + p * kStep, inputs[p]);
  }
#pragma unroll
  for (int p = 0; p < kElementwisePacks; ++p) {
    if (first + p * kStep < count) op.finish(first + p * kStep, inputs[p]);
  }
}

// make(std::integral_constant<int, n>) returns the Op for packs of n. `aligned`: of all pointers.
template <int kPack, class Make>
void launch_elementwise(const Context& ctx, const char* name, int64_t count, bool aligned,
                        const Make& make) {
  if (count == 0) return;
  const auto launch = [&](auto pack) {
    const auto op = make(pack);
    const int64_t per_block = int64_t{kElementwiseThreads} * kElementwisePacks * pack();
    cuda::launch(name, elementwise_kernel<std::remove_const_t<decltype(op)>>,
                 static_cast<unsigned>(ceil_div(count, per_block)), kElementwiseThreads, ctx, op,
                 count);
  };
  if (aligned && count % kPack == 0) {
    launch(std::integral_constant<int, kPack>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

}  // namespace rookery::cuda
