// The linear layer on the GPU. Few rows, as in decoding, are bound by reading the weights, each
// once for all rows of x; the layers of a group are one launch. bfloat16 with a multiple of 8
// inputs goes through the tensor cores, all else does not. More rows are the library's products
// (product_cuda.cu).

#include "core/cuda/launch.cuh"
#include "ops/linear/linear.h"
#include "ops/linear/product_cuda.h"

namespace rookery::cuda {
namespace {

// Rows of x that one warp multiplies with a row of the matrix.
constexpr int kRows = 8;
// Up to so many rows these kernels are faster than the library's.
constexpr int64_t kFewRows = 8, kFewTensorRows = 16;
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
// Neighbouring elements that a lane takes at a time: 16 bytes of bfloat16.
constexpr int kPack = 8;

struct Part {
  const void *x, *weight;
  const float* residual;  // null: none
  void* y;
  int64_t inputs, outputs;
  int64_t first_block;  // of this part
  bool wide_y;          // y is float32, whatever x is
  bool vectors;         // rows begin at multiples of 16 bytes
};
struct Parts {
  Part part[kMaxLinears];
  int count;
  int64_t rows;

  // The calling block's.
  __device__ const Part& here() const {
    int which = 0;
    while (which + 1 < count && blockIdx.x >= part[which + 1].first_block) ++which;
    return part[which];
  }
};
// y[row, n] = sum.
template <class T>
__device__ __forceinline__ void store_sum(const Part& p, int64_t row, int64_t n, float sum) {
  const int64_t at = row * p.outputs + n;
  const float y = p.residual == nullptr ? sum : p.residual[at] + sum;
  if (p.wide_y) {
    static_cast<float*>(p.y)[at] = y;
  } else {
    static_cast<T*>(p.y)[at] = from_float<T>(y);
  }
}

// Sums over k in one order whatever the number of rows: a row's numbers do not depend on the
// others.
template <class T, int R>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const __grid_constant__ Parts parts) {
  let_next_begin();
  const Part& p = parts.here();
  const int lane = threadIdx.x % kWarp;
  const int64_t n = (blockIdx.x - p.first_block) * kWarps + threadIdx.x / kWarp;
  if (n >= p.outputs) return;  // a whole warp
  const int64_t first = static_cast<int64_t>(blockIdx.y) * R, K = p.inputs;
  const int rows = static_cast<int>(parts.rows - first < R ? parts.rows - first : R);
  const T* weight = static_cast<const T*>(p.weight) + n * K;
  const T* x = static_cast<const T*>(p.x) + first * K;
  wait_for_previous();
  float sums[R] = {};
  if (p.vectors) {
#pragma unroll 4
    for (int64_t k = lane * kPack; k < K; k += kWarp * kPack) {
      float w[kPack];
      load_pack<kPack>(weight + k, w);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (r >= rows) break;
        float v[kPack];
        load_pack<kPack>(x + r * K + k, v);
#pragma unroll
        for (int i = 0; i < kPack; ++i) sums[r] = fmaf(w[i], v[i], sums[r]);
      }
    }
  } else {
    for (int64_t k = lane; k < K; k += kWarp) {
      const float w = to_float(weight[k]);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (r < rows) sums[r] = fmaf(w, to_float(x[r * K + k]), sums[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float sum = warp_sum(sums[r]);
    if (lane == 0 && r < rows) store_sum<T>(p, first + r, n, sum);
  }
}

// bfloat16 by the tensor cores: c[16 outputs, 8 rows] += a[16, 16 inputs] b[16, 8]. Which of the 16
// inputs is which does not matter as long as a and b agree, so a lane takes 16 neighbouring bytes
// of its rows: two multiplications.
constexpr int kTileOutputs = 16, kTileRows = 8, kTileInputs = 32;
__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A block has 16 outputs; its warps take turns along the inputs. kTiles: of 8 rows of x. As above,
// the order of a row's sums does not depend on the others.
template <int kTiles>
__global__ void __launch_bounds__(kThreads, 2)
    few_tensor_rows_kernel(const __grid_constant__ Parts parts) {
  constexpr int kAhead = 4;                      // tiles of inputs loaded at once
  constexpr int kStride = kWarps * kTileInputs;  // between them
  __shared__ float sums[kWarps][kTiles * kTileRows][kTileOutputs + 1];
  let_next_begin();
  const Part& p = parts.here();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int group = lane / 4, k0 = warp * kTileInputs + lane % 4 * kPack;
  const int K = static_cast<int>(p.inputs);
  const int64_t n0 = (blockIdx.x - p.first_block) * kTileOutputs;
  const int64_t first = int64_t{blockIdx.y} * kTiles * kTileRows;
  // Outputs and rows that are not there are read as the last one and as zero, and not stored.
  const bfloat16* const weight = static_cast<const bfloat16*>(p.weight);
  const bfloat16* const upper = weight + min(n0 + group, p.outputs - 1) * p.inputs;
  const bfloat16* const lower = weight + min(n0 + group + 8, p.outputs - 1) * p.inputs;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 a[kAhead][2];
  const auto load_weights = [&](int k) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = k + i * kStride;
      a[i][0] = at < K ? __ldcs(reinterpret_cast<const uint4*>(upper + at)) : zero;
      a[i][1] = at < K ? __ldcs(reinterpret_cast<const uint4*>(lower + at)) : zero;
    }
  };
  // No kernel that is launched early writes weights: they are on their way while others end.
  load_weights(k0);
  wait_for_previous();
  float c[kTiles][4] = {};
  for (int k = k0 - lane % 4 * kPack; k < K; k += kAhead * kStride) {  // the same in all lanes
    uint4 b[kAhead][kTiles];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = k + lane % 4 * kPack + i * kStride;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int64_t row = first + j * kTileRows + group;
        const bfloat16* const x = static_cast<const bfloat16*>(p.x) + row * p.inputs + at;
        b[i][j] = at < K && row < parts.rows ? *reinterpret_cast<const uint4*>(x) : zero;
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint4 u = a[i][0], l = a[i][1];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        multiply(c[j], u.x, l.x, u.y, l.y, b[i][j].x, b[i][j].y);
        multiply(c[j], u.z, l.z, u.w, l.w, b[i][j].z, b[i][j].w);
      }
    }
    if (k + kAhead * kStride < K) load_weights(k + lane % 4 * kPack + kAhead * kStride);
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int row = j * kTileRows + lane % 4 * 2;
    sums[warp][row][group] = c[j][0], sums[warp][row + 1][group] = c[j][1];
    sums[warp][row][group + 8] = c[j][2], sums[warp][row + 1][group + 8] = c[j][3];
  }
  __syncthreads();
  const int64_t n = n0 + threadIdx.x % kTileOutputs;
  const int row = static_cast<int>(threadIdx.x) / kTileOutputs;
  if (row >= kTiles * kTileRows || first + row >= parts.rows || n >= p.outputs) return;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += sums[i][row][threadIdx.x % kTileOutputs];
  store_sum<bfloat16>(p, first + row, n, sum);
}

void few_rows(std::span<const LinearForward> layers, Context& ctx) {
  Parts parts{};
  parts.rows = layers[0].x.rows();
  bool tensor = layers[0].x.dtype == DType::kBF16;
  for (const LinearForward& g : layers) {
    tensor = tensor && g.x.cols() % kPack == 0 && is_aligned(g.x.data, 16) &&
             is_aligned(g.weight.data, 16) && g.x.cols() < int64_t{1} << 30;
  }
  int64_t blocks = 0;
  for (const LinearForward& g : layers) {
    const int64_t row_bytes = g.x.cols() * size_of(g.x.dtype);
    parts.part[parts.count++] = {
        .x = g.x.data,
        .weight = g.weight.data,
        .residual = g.residual ? static_cast<const float*>(g.residual.data) : nullptr,
        .y = g.y.data,
        .inputs = g.x.cols(),
        .outputs = g.y.cols(),
        .first_block = blocks,
        .wide_y = g.y.dtype == DType::kF32,
        .vectors = g.x.cols() % kPack == 0 && row_bytes % 16 == 0 && is_aligned(g.x.data, 16) &&
                   is_aligned(g.weight.data, 16)};
    blocks += ceil_div(g.y.cols(), tensor ? kTileOutputs : kWarps);
  }
  if (parts.rows == 0 || blocks == 0) return;
  if (tensor) {
    const int tiles = parts.rows <= kTileRows ? 1 : 2;
    const dim3 grid(static_cast<unsigned>(blocks),
                    static_cast<unsigned>(ceil_div(parts.rows, tiles * kTileRows)));
    cuda::launch("linear", tiles == 1 ? few_tensor_rows_kernel<1> : few_tensor_rows_kernel<2>, grid,
                 kThreads, ctx, parts);
    return;
  }
  with_type(layers[0].x.dtype, "linear", [&](auto type) {
    using T = decltype(type);
    const auto launch = [&](auto kernel, int64_t rows) {
      const dim3 grid(static_cast<unsigned>(blocks),
                      static_cast<unsigned>(ceil_div(parts.rows, rows)));
      cuda::launch("linear", kernel, grid, kThreads, ctx, parts);
    };
    if (parts.rows == 1) {
      launch(few_rows_kernel<T, 1>, 1);
    } else if (parts.rows <= 4) {
      launch(few_rows_kernel<T, 4>, 4);
    } else {
      launch(few_rows_kernel<T, kRows>, kRows);
    }
  });
}

bool takes_few_rows(const LinearForward& g, const Context& ctx) {
  const int64_t few = g.x.dtype == DType::kBF16 ? kFewTensorRows : kFewRows;
  return g.x.rows() <= few || ctx.deterministic;
}

void check_types(const LinearForward& g) {
  check(g.x.dtype == g.weight.dtype) ||
      fail("linear on the GPU needs activations and weights of one type, got {} and {}",
           name_of(g.x.dtype), name_of(g.weight.dtype));
  check(!g.residual || (g.residual.dtype == DType::kF32 && g.y.dtype == DType::kF32)) ||
      fail("linear on the GPU adds a residual of f32 to y of f32, got {} and {}",
           name_of(g.residual.dtype), name_of(g.y.dtype));
}

void large(const LinearForward& g, Context& ctx) {
  const int64_t inputs = g.x.cols(), outputs = g.y.cols();
  if (outputs % 8 != 0 && g.padded && !g.residual) {
    // Rows of an odd length would take the slow way.
    const int64_t columns = padded_rows(outputs), size = size_of(g.y.dtype);
    const ArenaScope scope(*ctx.arena);
    void* const y = ctx.arena->allocate(g.x.rows() * columns * size);
    product({.m = g.x.rows(),
             .n = columns,
             .k = inputs,
             .a = {g.x.data, g.x.dtype, inputs, false},
             .b = {g.weight.data, g.weight.dtype, inputs, true},
             .c = y,
             .c_type = g.y.dtype,
             .c_stride = columns},
            ctx);
    check_cuda(cudaMemcpy2DAsync(g.y.data, outputs * size, y, columns * size, outputs * size,
                                 g.x.rows(), cudaMemcpyDeviceToDevice, stream(ctx)),
               "cudaMemcpy2DAsync");
    return;
  }
  product({.m = g.x.rows(),
           .n = outputs,
           .k = inputs,
           .a = {g.x.data, g.x.dtype, inputs, false},
           .b = {g.weight.data, g.weight.dtype, inputs, true},
           .c = g.y.data,
           .c_type = g.y.dtype,
           .c_stride = outputs,
           .add = g.residual ? g.residual.data : nullptr},
          ctx);
}

// The gradient of the residual, when it has a memory of its own.
template <class T>
__global__ void add_kernel(const T* from, T* to, int64_t count, bool accumulate) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    const float x = to_float(from[i]);
    to[i] = from_float<T>(accumulate ? to_float(to[i]) + x : x);
  }
}

// What the products read: dy in the type of the weights. The residual stream's gradient is float32.
template <class To>
__global__ void narrow_kernel(const float* from, To* to, int64_t count, bool vectors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * 4;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4; i < count;
       i += step) {
    if (vectors && i + 4 <= count) {
      float x[4];
      load_pack<4>(from + i, x);
      store_pack<4>(to + i, x);
    } else {
      for (int64_t j = i; j < count && j < i + 4; ++j) to[j] = from_float<To>(from[j]);
    }
  }
}

}  // namespace

void linear_forward(const LinearForward& g, Context& ctx) {
  check_types(g);
  if (takes_few_rows(g, ctx)) return few_rows({&g, 1}, ctx);
  large(g, ctx);
}

void linear_group_forward(const LinearGroupForward& g, Context& ctx) {
  const std::span<const LinearForward> layers(g.part, static_cast<size_t>(g.count));
  bool few = true;
  for (const LinearForward& layer : layers) {
    check_types(layer);
    few = few && takes_few_rows(layer, ctx) && layer.x.rows() == layers[0].x.rows();
  }
  if (few) return few_rows(layers, ctx);
  for (const LinearForward& layer : layers) linear_forward(layer, ctx);
}

void linear_backward(const LinearBackward& g, Context& ctx) {
  const LinearForward& f = g.forward;
  check_types(f);
  const int64_t rows = f.x.rows(), inputs = f.x.cols(), outputs = f.y.cols();
  const ArenaScope scope(*ctx.arena);
  TensorView dy = g.dy;
  if (dy.dtype != f.weight.dtype && dy.count() > 0 && (g.dx || g.dweight)) {
    dy = ctx.arena->make(g.dy.shape, f.weight.dtype);
    narrow_kernel<<<blocks_for(ctx, dy.count(), 1024), 256, 0, stream(ctx)>>>(
        g.dy.as<float>(), static_cast<bfloat16*>(dy.data), dy.count(), is_aligned(g.dy.data, 16));
    check_launch("linear.backward");
  }
  if (g.dx) {
    product({.m = rows,
             .n = inputs,
             .k = outputs,
             .a = {dy.data, dy.dtype, outputs, false},
             .b = {f.weight.data, f.weight.dtype, inputs, false},
             .c = g.dx.data,
             .c_type = g.dx.dtype,
             .c_stride = inputs,
             .add = g.dx.accumulate ? g.dx.data : nullptr},
            ctx);
  }
  if (g.dweight) {
    product({.m = outputs,
             .n = inputs,
             .k = rows,
             .a = {dy.data, dy.dtype, outputs, true},
             .b = {f.x.data, f.x.dtype, inputs, false},
             .c = g.dweight.data,
             .c_type = DType::kF32,
             .c_stride = inputs,
             .add = g.dweight.accumulate ? g.dweight.data : nullptr},
            ctx);
  }
  if (g.dresidual && g.dresidual.count() > 0) {
    with_type(g.dresidual.dtype, "linear.backward", [&](auto type) {
      using T = decltype(type);
      add_kernel<<<blocks_for(ctx, g.dresidual.count(), 256), 256, 0, stream(ctx)>>>(
          static_cast<const T*>(g.dy.data), static_cast<T*>(g.dresidual.data), g.dresidual.count(),
          g.dresidual.accumulate);
    });
    check_launch("linear.backward");
  }
}

}  // namespace rookery::cuda
