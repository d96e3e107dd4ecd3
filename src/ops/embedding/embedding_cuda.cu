// Embedding on the GPU. Backward: tokens are sorted by id, with those of one id in the order of the
// text, and cut into pieces of so many; a block adds the rows of a piece. An id whose rows lie in
// several pieces (half the text may be one id) leaves a sum in each, and the block where it begins
// adds those. Every sum has one order, and nothing waits for a long one.

#include <cuda_fp16.h>

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <limits>
#include <type_traits>

#include "core/cuda/elementwise.cuh"
#include "ops/embedding/embedding.h"

namespace rookery::cuda {
namespace {

constexpr int kForwardRows = 4;  // of one thread
constexpr int kPiece = 32;       // sorted tokens of a block
constexpr int kAtOnce = 8;       // rows read before they are added

__device__ __forceinline__ float value_of(float x) { return x; }
__device__ __forceinline__ float value_of(bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float value_of(__half x) { return __half2float(x); }

template <class T, int kPack>
__global__ void __launch_bounds__(256)
    forward_kernel(const int32_t* ids, const T* table, float* y, int64_t rows, int64_t width) {
  let_next_begin();
  wait_for_previous();
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kPack;
  if (c >= width) return;
  const int64_t begin = int64_t{blockIdx.x} * kForwardRows;
  int64_t id[kForwardRows];
  Pack<T, kPack> packs[kForwardRows];
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    if (begin + r < rows) id[r] = ids[begin + r];
  }
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    if (begin + r >= rows) continue;
    packs[r] = *reinterpret_cast<const Pack<T, kPack>*>(table + id[r] * width + c);
  }
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    if (begin + r >= rows) continue;
    float values[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) values[k] = value_of(packs[r].values[k]);
    store_pack(y + (begin + r) * width + c, values);
  }
}

__global__ void __launch_bounds__(256) number_rows_kernel(int32_t* rows, int32_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) rows[i] = static_cast<int32_t>(i);
}

struct Sums {
  const int32_t *ids, *rows;  // [count], sorted
  const float* dy;            // [count, width]
  GradientOut<float> dtable;
  float* pieces;  // [pieces, 2, width]: sums of a piece's first id, when the piece before has it,
                  // too, and of its last, when it begins here and goes on in the next
  int64_t count, width;
};

// Writes the sum of sorted tokens begin .. of one id, which end before `end`, to where it belongs.
template <int kPack>
__device__ __forceinline__ void keep_sum(const Sums& g, int64_t piece, bool goes_on_before,
                                         bool goes_on_after, int64_t id, int64_t c,
                                         const float (&sum)[kPack]) {
  if (goes_on_before) {
    store_pack(g.pieces + 2 * piece * g.width + c, sum);
  } else if (goes_on_after) {
    store_pack(g.pieces + (2 * piece + 1) * g.width + c, sum);
  } else {
    write_gradient(g.dtable, id * g.width + c, sum);
  }
}

template <int kPack>
__global__ void __launch_bounds__(256) add_rows_kernel(const __grid_constant__ Sums g) {
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kPack;
  if (c >= g.width) return;
  const int64_t piece = blockIdx.x, begin = piece * kPiece;
  const int64_t end = begin + kPiece < g.count ? begin + kPiece : g.count;
  int32_t id = g.ids[begin];
  bool goes_on_before = begin > 0 && g.ids[begin - 1] == id;
  float sum[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) sum[k] = 0;
  for (int64_t first = begin; first < end; first += kAtOnce) {
    int32_t ids[kAtOnce];
    float rows[kAtOnce][kPack];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      if (first + r >= end) continue;
      ids[r] = g.ids[first + r];
      load_pack(g.dy + g.rows[first + r] * g.width + c, rows[r]);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      if (first + r >= end) continue;
      if (ids[r] != id) {
        keep_sum(g, piece, goes_on_before, false, id, c, sum);
        id = ids[r];
        goes_on_before = false;
#pragma unroll
        for (int k = 0; k < kPack; ++k) sum[k] = 0;
      }
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum[k] += rows[r][k];
    }
  }
  keep_sum(g, piece, goes_on_before, end < g.count && g.ids[end] == id, id, c, sum);
}

// For the piece in which an id of several pieces begins: adds their sums, in order.
template <int kPack>
__global__ void __launch_bounds__(256) add_pieces_kernel(const __grid_constant__ Sums g) {
  const int64_t piece = blockIdx.x, begin = piece * kPiece, end = begin + kPiece;
  if (end >= g.count) return;
  const int32_t id = g.ids[end];
  if (g.ids[end - 1] != id || (begin > 0 && g.ids[begin - 1] == id)) return;
  const int64_t pieces = ceil_div(g.count, kPiece);
  int64_t more = 0;  // pieces behind this one whose first token has the id
  int found = 0;     // of as many as there are threads
  do {
    const int64_t other = piece + 1 + more + threadIdx.x;
    found = __syncthreads_count(other < pieces && g.ids[other * kPiece] == id);
    more += found;
  } while (found == static_cast<int>(blockDim.x));
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kPack;
  if (c >= g.width) return;
  float sum[kPack];
  load_pack(g.pieces + (2 * piece + 1) * g.width + c, sum);
  int64_t next = 1;
  for (; next + kAtOnce <= more + 1; next += kAtOnce) {
    float sums[kAtOnce][kPack];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      load_pack(g.pieces + 2 * (piece + next + r) * g.width + c, sums[r]);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum[k] += sums[r][k];
    }
  }
  for (; next <= more; ++next) {
    float other[kPack];
    load_pack(g.pieces + 2 * (piece + next) * g.width + c, other);
#pragma unroll
    for (int k = 0; k < kPack; ++k) sum[k] += other[k];
  }
  write_gradient(g.dtable, int64_t{id} * g.width + c, sum);
}

template <class T>
void run_forward(const EmbeddingForward& g, const Context& ctx) {
  const int64_t rows = g.y.rows(), width = g.table.shape[1];
  const auto launch = [&](auto pack) {
    const RowShape row(width, pack());
    const dim3 grid(static_cast<unsigned>(ceil_div(rows, kForwardRows)), row.blocks);
    cuda::launch("embedding", forward_kernel<T, pack()>, grid, row.threads, ctx, g.ids.device,
                 static_cast<const T*>(g.table.data), static_cast<float*>(g.y.data), rows, width);
  };
  if (all_aligned(g.table.data, g.y.data) && width % kPackOf<T> == 0) {
    launch(std::integral_constant<int, kPackOf<T>>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

}  // namespace

void embedding_forward(const EmbeddingForward& g, Context& ctx) {
  check(g.y.dtype == DType::kF32) ||
      fail("embedding on the GPU makes f32, not {}", name_of(g.y.dtype));
  if (g.y.count() == 0) return;
  if (g.table.dtype == DType::kF16) return run_forward<__half>(g, ctx);
  with_type(g.table.dtype, "embedding", [&](auto type) { run_forward<decltype(type)>(g, ctx); });
}

void embedding_backward(const EmbeddingBackward& g, Context& ctx) {
  if (!g.dtable) return;
  check(g.dy.dtype == DType::kF32 && g.dtable.dtype == DType::kF32) ||
      fail("embedding on the GPU takes gradients of f32, got {} and {}", name_of(g.dy.dtype),
           name_of(g.dtable.dtype));
  const int64_t rows = g.dy.rows(), vocabulary = g.dtable.shape[0], width = g.dtable.shape[1];
  check(rows <= std::numeric_limits<int32_t>::max() && vocabulary > 0) ||
      fail("embedding on the GPU takes up to 2^31 - 1 tokens, got {}", rows);
  if (!g.dtable.accumulate) ctx.stream->zero(g.dtable.data, g.dtable.bytes());
  if (rows == 0 || width == 0) return;

  const auto count = static_cast<int32_t>(rows);
  const int64_t pieces = ceil_div(rows, kPiece), bytes = rows * int64_t{sizeof(int32_t)};
  const ArenaScope scope(*ctx.arena);
  auto* const unsorted = static_cast<int32_t*>(ctx.arena->allocate(bytes));
  auto* const sorted = static_cast<int32_t*>(ctx.arena->allocate(bytes));
  auto* const sorted_ids = static_cast<int32_t*>(ctx.arena->allocate(bytes));
  int bits = 1;  // of an id
  while (bits < 31 && (vocabulary - 1) >> bits != 0) ++bits;
  const auto sort = [&](void* scratch, size_t& size) {
    check_cuda(cub::DeviceRadixSort::SortPairs(scratch, size, g.forward.ids.device, sorted_ids,
                                               unsorted, sorted, count, 0, bits, stream(ctx)),
               "embedding backward: sorting");
  };
  size_t size = 0;
  sort(nullptr, size);
  void* const scratch = ctx.arena->allocate(static_cast<int64_t>(size));
  number_rows_kernel<<<static_cast<unsigned>(ceil_div(rows, 256)), 256, 0, stream(ctx)>>>(unsorted,
                                                                                          count);
  check_launch("embedding backward");
  sort(scratch, size);

  auto* const sums = static_cast<float*>(
      ctx.arena->allocate(pieces * 2 * width * static_cast<int64_t>(sizeof(float))));
  const Sums args{
      sorted_ids, sorted, static_cast<const float*>(g.dy.data), GradientOut<float>(g.dtable), sums,
      rows,       width};
  const auto launch = [&](auto pack) {
    const RowShape row(width, pack());
    const dim3 grid(static_cast<unsigned>(pieces), row.blocks);
    add_rows_kernel<pack()><<<grid, row.threads, 0, stream(ctx)>>>(args);
    add_pieces_kernel<pack()><<<grid, row.threads, 0, stream(ctx)>>>(args);
    check_launch("embedding backward");
  };
  if (all_aligned(g.dy.data, g.dtable.data) && width % 4 == 0) {
    launch(std::integral_constant<int, 4>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

}  // namespace rookery::cuda
