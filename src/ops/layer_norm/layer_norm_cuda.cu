// Layer norm on the GPU. A row is read once and stays in registers between mean, variance and
// output: up to 1024 channels of a warp, up to 8192 of a block. Rows of other widths or places are
// read again for each of the three. The backward's sums over rows are shares of blocks, added in
// order by a second kernel.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/cuda/elementwise.cuh"
#include "core/cuda/shares.cuh"
#include "ops/layer_norm/layer_norm.h"

namespace rookery::cuda {
namespace {

constexpr int kThreads = 256;        // of a block that has one row
constexpr int kNarrowThreads = 128;  // of a block that has one row per warp
constexpr int kWarps = kThreads / kWarp;

template <class X, class Y>
struct Forward {
  const X* x;
  const float *weight, *bias;
  float epsilon;
  Y* y;
  float* statistics;
  int64_t rows, width;
};

template <class X, class Y>
struct Backward {
  const X* x;
  const Y* dy;
  const float *weight, *statistics;
  GradientOut<X> dx;
  float* shares;  // [blocks, 2, width], or null: neither dweight nor dbias is wanted
  int64_t rows, width;
};

// Sum over the block, in each thread. `of_warps` may be used again after a sum at another place.
__device__ __forceinline__ float block_sum(float x, float (&of_warps)[kWarps]) {
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) x += of_warps[warp];
  return x;
}

// Rows in registers: kPacks packs of kPack channels per thread. kWide: a row per block.
template <class X, class Y, int kPack, int kPacks, bool kWide>
__global__ void __launch_bounds__(kWide ? kThreads : kNarrowThreads)
    forward_kernel(const __grid_constant__ Forward<X, Y> g) {
  let_next_begin();
  wait_for_previous();
  constexpr int kLanes = kWide ? kThreads : kWarp;  // that share a row
  __shared__ float of_warps[2][kWarps];
  const int lane = threadIdx.x % kLanes;
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  if (row >= g.rows) return;  // a whole warp; never of a wide block
  const X* const x_row = g.x + row * g.width;
  float x[kPacks][kPack];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t c = (p * kLanes + lane) * kPack;
    if (c < g.width) {
      load_pack(x_row + c, x[p]);
    } else {
#pragma unroll
      for (int k = 0; k < kPack; ++k) x[p][k] = 0;
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) sum += x[p][k];
  }
  const float scale = 1.0f / static_cast<float>(g.width);
  const float mean = (kWide ? block_sum(sum, of_warps[0]) : warp_sum(sum)) * scale;
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if ((p * kLanes + lane) * kPack >= g.width) continue;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      x[p][k] -= mean;
      squares = fmaf(x[p][k], x[p][k], squares);
    }
  }
  squares = kWide ? block_sum(squares, of_warps[1]) : warp_sum(squares);
  const float rstd = 1.0f / sqrtf(squares * scale + g.epsilon);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t c = (p * kLanes + lane) * kPack;
    if (c >= g.width) continue;
    float weight[kPack], bias[kPack];
    load_pack(g.weight + c, weight);
    load_pack(g.bias + c, bias);
#pragma unroll
    for (int k = 0; k < kPack; ++k) x[p][k] = fmaf(x[p][k] * rstd, weight[k], bias[k]);
    store_pack(g.y + row * g.width + c, x[p]);
  }
  if (lane == 0) {
    g.statistics[2 * row] = mean;
    g.statistics[2 * row + 1] = rstd;
  }
}

// Any width: a row per block.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads)
    forward_any_kernel(const __grid_constant__ Forward<X, Y> g) {
  let_next_begin();
  wait_for_previous();
  __shared__ float of_warps[2][kWarps];
  const int64_t row = blockIdx.x;
  const X* const x = g.x + row * g.width;
  const float scale = 1.0f / static_cast<float>(g.width);
  float sum = 0;
  for (int64_t c = threadIdx.x; c < g.width; c += kThreads) sum += to_float(x[c]);
  const float mean = block_sum(sum, of_warps[0]) * scale;
  float squares = 0;
  for (int64_t c = threadIdx.x; c < g.width; c += kThreads) {
    const float centred = to_float(x[c]) - mean;
    squares = fmaf(centred, centred, squares);
  }
  const float rstd = 1.0f / sqrtf(block_sum(squares, of_warps[1]) * scale + g.epsilon);
  for (int64_t c = threadIdx.x; c < g.width; c += kThreads) {
    const float normal = (to_float(x[c]) - mean) * rstd;
    g.y[row * g.width + c] = from_float<Y>(fmaf(normal, g.weight[c], g.bias[c]));
  }
  if (threadIdx.x == 0) {
    g.statistics[2 * row] = mean;
    g.statistics[2 * row + 1] = rstd;
  }
}

// The formulas are at backward_rows in layer_norm_cpu.cc. A block, or each of its warps, walks
// over rows and keeps its sums of dweight and dbias in registers.
template <class X, class Y, int kPack, int kPacks, bool kWide>
__global__ void __launch_bounds__(kWide ? kThreads : kNarrowThreads)
    backward_kernel(const __grid_constant__ Backward<X, Y> g) {
  constexpr int kLanes = kWide ? kThreads : kWarp;
  __shared__ float of_warps[2][2][kWarps];  // [odd or even row, sum]
  const int lane = threadIdx.x % kLanes;
  const int rows_at_once = blockDim.x / kLanes;
  const float scale = 1.0f / static_cast<float>(g.width);
  float dweight[kPacks][kPack], dbias[kPacks][kPack];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) dweight[p][k] = dbias[p][k] = 0;
  }
  int parity = 0;
  for (int64_t row = int64_t{blockIdx.x} * rows_at_once + threadIdx.x / kLanes; row < g.rows;
       row += int64_t{gridDim.x} * rows_at_once) {
    const int64_t start = row * g.width;
    const float mean = g.statistics[2 * row], rstd = g.statistics[2 * row + 1];
    float normal[kPacks][kPack], h[kPacks][kPack];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t c = (p * kLanes + lane) * kPack;
      if (c < g.width) {
        load_pack(g.x + start + c, normal[p]);
        load_pack(g.dy + start + c, h[p]);
      } else {
#pragma unroll
        for (int k = 0; k < kPack; ++k) normal[p][k] = h[p][k] = 0;
      }
    }
    float sum_h = 0, sum_hn = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t c = (p * kLanes + lane) * kPack;
      if (c >= g.width) continue;
      float weight[kPack];
      load_pack(g.weight + c, weight);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        normal[p][k] = (normal[p][k] - mean) * rstd;
        dweight[p][k] = fmaf(h[p][k], normal[p][k], dweight[p][k]);
        dbias[p][k] += h[p][k];
        h[p][k] *= weight[k];
        sum_h += h[p][k];
        sum_hn = fmaf(h[p][k], normal[p][k], sum_hn);
      }
    }
    if (g.dx.data == nullptr) continue;  // all threads alike
    sum_h = warp_sum(sum_h);
    sum_hn = warp_sum(sum_hn);
    if constexpr (kWide) {
      // The sums of the row before may still be read: two places in turn.
      if (threadIdx.x % kWarp == 0) {
        of_warps[parity][0][threadIdx.x / kWarp] = sum_h;
        of_warps[parity][1][threadIdx.x / kWarp] = sum_hn;
      }
      __syncthreads();
      sum_h = sum_hn = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        sum_h += of_warps[parity][0][warp];
        sum_hn += of_warps[parity][1][warp];
      }
      parity ^= 1;
    }
    const float mean_h = sum_h * scale, mean_hn = sum_hn * scale;
    if (g.dx.accumulate) {
      // `h` becomes the result only after all loads are on their way.
      float there[kPacks][kPack];
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int64_t c = (p * kLanes + lane) * kPack;
        if (c < g.width) load_pack(g.dx.data + start + c, there[p]);
      }
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int64_t c = (p * kLanes + lane) * kPack;
        if (c >= g.width) continue;
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          h[p][k] = fmaf(rstd, h[p][k] - mean_h - normal[p][k] * mean_hn, there[p][k]);
        }
        store_pack(g.dx.data + start + c, h[p]);
      }
    } else {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int64_t c = (p * kLanes + lane) * kPack;
        if (c >= g.width) continue;
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          h[p][k] = rstd * (h[p][k] - mean_h - normal[p][k] * mean_hn);
        }
        store_pack(g.dx.data + start + c, h[p]);
      }
    }
  }
  if (g.shares == nullptr) return;
  float* const share = g.shares + int64_t{blockIdx.x} * 2 * g.width;
  if constexpr (kWide) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int64_t c = (p * kLanes + lane) * kPack;
      if (c >= g.width) continue;
      store_pack(share + c, dweight[p]);
      store_pack(share + g.width + c, dbias[p]);
    }
  } else {
    // The warps add theirs one after the other: always in one order.
    __shared__ __align__(16) float sums[2][kPacks * kPack * kWarp];
    for (int warp = 0; warp < kNarrowThreads / kWarp; ++warp) {
      if (static_cast<int>(threadIdx.x) / kWarp == warp) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
          const int c = (p * kLanes + lane) * kPack;
          if (warp > 0) {
            float before[kPack];
            load_pack(&sums[0][c], before);
#pragma unroll
            for (int k = 0; k < kPack; ++k) dweight[p][k] += before[k];
            load_pack(&sums[1][c], before);
#pragma unroll
            for (int k = 0; k < kPack; ++k) dbias[p][k] += before[k];
          }
          store_pack(&sums[0][c], dweight[p]);
          store_pack(&sums[1][c], dbias[p]);
        }
      }
      __syncthreads();
    }
    for (int64_t c = threadIdx.x; c < g.width; c += kNarrowThreads) {
      share[c] = sums[0][c];
      share[g.width + c] = sums[1][c];
    }
  }
}

// Any width. Each thread adds to its own channels of the block's share in memory.
template <class X, class Y>
__global__ void __launch_bounds__(kThreads)
    backward_any_kernel(const __grid_constant__ Backward<X, Y> g) {
  __shared__ float of_warps[4][kWarps];
  const float scale = 1.0f / static_cast<float>(g.width);
  float* const dweight =
      g.shares == nullptr ? nullptr : g.shares + int64_t{blockIdx.x} * 2 * g.width;
  float* const dbias = dweight + g.width;
  if (dweight != nullptr) {
    for (int64_t c = threadIdx.x; c < g.width; c += kThreads) dweight[c] = dbias[c] = 0;
  }
  int parity = 0;
  for (int64_t row = blockIdx.x; row < g.rows; row += gridDim.x) {
    const int64_t start = row * g.width;
    const float mean = g.statistics[2 * row], rstd = g.statistics[2 * row + 1];
    float sum_h = 0, sum_hn = 0;
    for (int64_t c = threadIdx.x; c < g.width; c += kThreads) {
      const float upstream = to_float(g.dy[start + c]), h = upstream * g.weight[c];
      const float normal = (to_float(g.x[start + c]) - mean) * rstd;
      sum_h += h;
      sum_hn = fmaf(h, normal, sum_hn);
      if (dweight != nullptr) {
        dweight[c] = fmaf(upstream, normal, dweight[c]);
        dbias[c] += upstream;
      }
    }
    if (g.dx.data == nullptr) continue;
    const float mean_h = block_sum(sum_h, of_warps[parity]) * scale;
    const float mean_hn = block_sum(sum_hn, of_warps[parity + 1]) * scale;
    parity ^= 2;
    for (int64_t c = threadIdx.x; c < g.width; c += kThreads) {
      const float h = to_float(g.dy[start + c]) * g.weight[c];
      const float normal = (to_float(g.x[start + c]) - mean) * rstd;
      const float gradient[1] = {rstd * (h - mean_h - normal * mean_hn)};
      write_gradient(g.dx, start + c, gradient);
    }
  }
}

// Calls body(X{}, Y{}).
template <class Body>
void with_types(const LayerNormForward& g, const Body& body) {
  check(g.y.dtype == g.x.dtype || g.x.dtype == DType::kF32) ||
      fail("layer_norm on the GPU takes y of x's type, or x of f32; got {} and {}",
           name_of(g.x.dtype), name_of(g.y.dtype));
  with_type(g.y.dtype, "layer_norm", [&](auto type) {
    if (g.x.dtype == DType::kF32) {
      body(float{}, type);
    } else {
      body(type, type);
    }
  });
}

// Calls body(std::integral_constant<int, kPacks>) with the first of the choices that is enough, or
// returns false.
template <int... kChoices, class Body>
bool with_packs(int64_t packs, std::integer_sequence<int, kChoices...>, const Body& body) {
  bool done = false;
  ((!done && packs <= kChoices && (body(std::integral_constant<int, kChoices>()), done = true)),
   ...);
  return done;
}

// Calls body(kPack, kPacks, kWide) as integral constants; false when rows do not fit into
// registers.
template <class X, class Body>
bool in_registers(int64_t width, bool aligned, const Body& body) {
  constexpr int kPack = kPackOf<X>;
  const std::integral_constant<int, kPack> pack;
  if (!aligned || width % kPack != 0) return false;
  if (width <= 1024) {
    using Choices = std::conditional_t<kPack == 4, std::integer_sequence<int, 1, 2, 4, 6, 8>,
                                       std::integer_sequence<int, 1, 2, 3, 4>>;
    return with_packs(ceil_div(width, kWarp * kPack), Choices(),
                      [&](auto packs) { body(pack, packs, std::false_type()); });
  }
  using Choices = std::conditional_t<kPack == 4, std::integer_sequence<int, 2, 3, 4, 5, 8>,
                                     std::integer_sequence<int, 1, 2, 3, 4>>;
  return with_packs(ceil_div(width, kThreads * kPack), Choices(),
                    [&](auto packs) { body(pack, packs, std::true_type()); });
}

}  // namespace

void layer_norm_forward(const LayerNormForward& g, Context& ctx) {
  const int64_t rows = g.x.rows(), width = g.weight.count();
  if (rows == 0 || width == 0) return;
  with_types(g, [&](auto x_type, auto y_type) {
    using X = decltype(x_type);
    using Y = decltype(y_type);
    const Forward<X, Y> args{static_cast<const X*>(g.x.data),
                             static_cast<const float*>(g.weight.data),
                             static_cast<const float*>(g.bias.data),
                             g.epsilon,
                             static_cast<Y*>(g.y.data),
                             static_cast<float*>(g.statistics.data),
                             rows,
                             width};
    const bool done = in_registers<X>(
        width, all_aligned(g.x.data, g.weight.data, g.bias.data, g.y.data),
        [&](auto pack, auto packs, auto wide) {
          const auto kernel = &forward_kernel<X, Y, pack(), packs(), wide()>;
          const int threads = wide() ? kThreads : kNarrowThreads;
          const int64_t blocks = wide() ? rows : ceil_div(rows, kNarrowThreads / kWarp);
          cuda::launch("layer_norm", kernel, static_cast<unsigned>(blocks),
                       static_cast<unsigned>(threads), ctx, args);
        });
    if (!done) {
      cuda::launch("layer_norm", forward_any_kernel<X, Y>, static_cast<unsigned>(rows), kThreads,
                   ctx, args);
    }
  });
}

void layer_norm_backward(const LayerNormBackward& g, Context& ctx) {
  const LayerNormForward& f = g.forward;
  const int64_t rows = f.x.rows(), width = f.weight.count();
  if (width == 0) return;
  const bool wants_sums = g.dweight || g.dbias;
  // As many as run at once, with a share each.
  const int64_t processors = device_info(ctx).multiprocessors;
  const int64_t narrow_blocks = std::min(ceil_div(rows, kNarrowThreads / kWarp), 3 * processors);
  const int64_t wide_blocks = std::min(rows, 2 * processors);
  const bool narrow = width <= 1024;
  const int64_t most_blocks = std::max(narrow ? narrow_blocks : int64_t{0}, wide_blocks);
  const ArenaScope scope(*ctx.arena);
  float* shares = nullptr;
  if (wants_sums) {
    shares = static_cast<float*>(ctx.arena->allocate(most_blocks * 2 * width * sizeof(float)));
  }
  int64_t blocks = 0;
  if (rows > 0) {
    with_types(f, [&](auto x_type, auto y_type) {
      using X = decltype(x_type);
      using Y = decltype(y_type);
      const Backward<X, Y> args{static_cast<const X*>(f.x.data),
                                static_cast<const Y*>(g.dy.data),
                                static_cast<const float*>(f.weight.data),
                                static_cast<const float*>(f.statistics.data),
                                GradientOut<X>(g.dx),
                                shares,
                                rows,
                                width};
      const bool done = in_registers<X>(
          width, all_aligned(f.x.data, g.dy.data, f.weight.data, g.dx.data),
          [&](auto pack, auto packs, auto wide) {
            const auto kernel = &backward_kernel<X, Y, pack(), packs(), wide()>;
            const int threads = wide() ? kThreads : kNarrowThreads;
            blocks = wide() ? wide_blocks : narrow_blocks;
            kernel<<<static_cast<unsigned>(blocks), threads, 0, stream(ctx)>>>(args);
          });
      if (!done) {
        blocks = wide_blocks;
        backward_any_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream(ctx)>>>(args);
      }
      check_launch("layer_norm backward");
    });
  }
  if (!wants_sums) return;
  ShareSums sums;
  sums.set(0, g.dweight);
  sums.set(1, g.dbias);
  add_shares(ctx, "layer_norm backward", shares, blocks, 2, width, sums);
}

}  // namespace rookery::cuda
