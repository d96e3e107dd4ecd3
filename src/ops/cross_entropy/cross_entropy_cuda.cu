// The head with its loss on the GPU: a chunk of rows at a time, the library makes the logits, a
// block per row turns them into their gradient where they lie, and two products carry it on. Logits
// are of the type of x; sums are float32.

#include "core/cuda/launch.cuh"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/linear/product_cuda.h"

namespace rookery::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;

// The largest number so far, the first place where it stands, and the sum of e^(z - largest).
struct Softmax {
  float largest, sum;
  int index;
};
__device__ __forceinline__ Softmax nothing() { return {-3.0e38f, 0.0f, 0x7fffffff}; }
// NaN stays: it is in the sum.
__device__ __forceinline__ Softmax join(const Softmax& a, const Softmax& b) {
  const bool second = b.largest > a.largest || (b.largest == a.largest && b.index < a.index);
  const float largest = second ? b.largest : a.largest;
  return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest),
          second ? b.index : a.index};
}
__device__ __forceinline__ Softmax exchange(const Softmax& s, int distance) {
  return {__shfl_xor_sync(kAllLanes, s.largest, distance),
          __shfl_xor_sync(kAllLanes, s.sum, distance),
          __shfl_xor_sync(kAllLanes, s.index, distance)};
}

// P neighbouring logits from column i on join what was seen before.
template <int P>
__device__ __forceinline__ void take(const float (&z)[P], int i, Softmax& seen) {
  float largest = z[0];
  int index = i;
#pragma unroll
  for (int j = 1; j < P; ++j) {
    if (z[j] > largest) largest = z[j], index = i + j;
  }
  if (largest > seen.largest) {
    seen.sum *= __expf(seen.largest - largest);
    seen.largest = largest;
    seen.index = index;
  }
#pragma unroll
  for (int j = 0; j < P; ++j) seen.sum += __expf(z[j] - seen.largest);
}

// A block per row: its loss; with kGradient the row becomes
// factor * (softmax - one at the target + l2wrap * largest at the largest), 0 where masked.
// A row begins at a multiple of 64 elements, so that packs of P are aligned.
template <class T, int P, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(T* logits, int64_t stride, int vocabulary, const int32_t* targets,
                   const float* upstream, float scale, float l2wrap, float* losses,
                   float* largest_logits) {
  __shared__ Softmax shared[kWarps];
  const int64_t t = blockIdx.x;
  T* row = logits + t * stride;
  const int32_t target = targets[t];
  const int packs = vocabulary / P, tail = packs * P;
  if (target < 0) {
    if (kGradient) {
      for (int64_t i = threadIdx.x; i < stride; i += kThreads) row[i] = from_float<T>(0.0f);
    }
    if (threadIdx.x == 0) losses[t] = largest_logits[t] = 0;
    return;
  }
  Softmax seen = nothing();
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    float z[P];
    load_pack<P>(row + i * P, z);
    take<P>(z, i * P, seen);
  }
  for (int i = tail + threadIdx.x; i < vocabulary; i += kThreads) {
    const float z[1] = {to_float(row[i])};
    take<1>(z, i, seen);
  }
  const float target_logit = to_float(row[target]);  // before anyone writes
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    seen = join(seen, exchange(seen, distance));
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = seen;
  __syncthreads();
  // Every thread joins in the same order.
  Softmax all = shared[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) all = join(all, shared[w]);
  if (threadIdx.x == 0) {
    losses[t] = all.largest + logf(all.sum) - target_logit;
    largest_logits[t] = all.largest;
  }
  if (!kGradient) return;
  const float factor = scale * *upstream, share = factor / all.sum;
  const float wrap = factor * l2wrap * all.largest;
  const auto gradient = [&](float z, int i) {
    float g = __expf(z - all.largest) * share;
    if (i == target) g -= factor;
    if (i == all.index) g += wrap;
    return g;
  };
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    float z[P];
    load_pack<P>(row + i * P, z);
#pragma unroll
    for (int j = 0; j < P; ++j) z[j] = gradient(z[j], i * P + j);
    store_pack<P>(row + i * P, z);
  }
  for (int i = tail + threadIdx.x; i < vocabulary; i += kThreads) {
    row[i] = from_float<T>(gradient(to_float(row[i]), i));
  }
  // Products may read the padding.
  for (int64_t i = vocabulary + threadIdx.x; i < stride; i += kThreads) {
    row[i] = from_float<T>(0.0f);
  }
}

// One block: sums of all rows, in one order.
__global__ void __launch_bounds__(kThreads)
    sum_kernel(const float* losses, const float* largest, int64_t rows, double scale, double l2wrap,
               float* objective, double* loss_sum) {
  __shared__ double shared[2][kThreads];
  double loss = 0, squares = 0;
  for (int64_t t = threadIdx.x; t < rows; t += kThreads) {
    loss += losses[t];
    squares += static_cast<double>(largest[t]) * largest[t];
  }
  shared[0][threadIdx.x] = loss;
  shared[1][threadIdx.x] = squares;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      shared[0][threadIdx.x] += shared[0][threadIdx.x + half];
      shared[1][threadIdx.x] += shared[1][threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  *loss_sum = shared[0][0];
  *objective = static_cast<float>(scale * (shared[0][0] + 0.5 * l2wrap * shared[1][0]));
}

// Both directions: `backward` null computes the losses only.
void run(const CrossEntropyForward& g, const CrossEntropyBackward* backward, Context& ctx) {
  const int64_t rows = g.x.rows(), width = g.weight.cols(), vocabulary = g.weight.rows();
  const int64_t chunk = g.logits.rows(), stride = g.logits.cols();
  // What the products see of it.
  const int64_t columns = g.padded ? padded_rows(vocabulary) : vocabulary;
  const DType type = g.x.dtype;
  check(g.weight.dtype == type && g.logits.dtype == type) ||
      fail("cross_entropy on the GPU needs x, head and logits of one type, got {}, {} and {}",
           name_of(type), name_of(g.weight.dtype), name_of(g.logits.dtype));
  check(vocabulary < (int64_t{1} << 31)) ||
      fail("cross_entropy: a vocabulary of {} is too large", vocabulary);
  check(columns <= stride) ||
      fail("cross_entropy: logits of {} columns, expected at least {}", stride, columns);
  const ArenaScope scope(*ctx.arena);
  auto* const largest = static_cast<float*>(ctx.arena->allocate(rows * 4));
  auto* const losses = g.losses.as<float>();
  const int64_t x_row = width * size_of(type);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const void* x = static_cast<const char*>(g.x.data) + first * x_row;
    product({.m = count,
             .n = columns,
             .k = width,
             .a = {x, type, width, false},
             .b = {g.weight.data, type, width, true},
             .c = g.logits.data,
             .c_type = type,
             .c_stride = stride},
            ctx);
    with_type(type, "cross_entropy", [&](auto element) {
      using T = decltype(element);
      constexpr int kPack = 16 / sizeof(T);
      const bool vectors = stride % kPack == 0 && is_aligned(g.logits.data, 16);
      const auto launch = [&](auto kernel) {
        kernel<<<static_cast<unsigned>(count), kThreads, 0, stream(ctx)>>>(
            static_cast<T*>(g.logits.data), stride, static_cast<int>(vocabulary),
            g.targets.device + first,
            backward == nullptr ? nullptr : backward->dobjective.as<float>(),
            static_cast<float>(g.scale), static_cast<float>(g.l2wrap), losses + first,
            largest + first);
      };
      if (backward == nullptr) {
        vectors ? launch(softmax_kernel<T, kPack, false>) : launch(softmax_kernel<T, 1, false>);
      } else {
        vectors ? launch(softmax_kernel<T, kPack, true>) : launch(softmax_kernel<T, 1, true>);
      }
    });
    check_launch("cross_entropy");
    if (backward == nullptr) continue;
    if (const GradView& dx = backward->dx) {
      void* to = static_cast<char*>(dx.data) + first * width * size_of(dx.dtype);
      product({.m = count,
               .n = width,
               .k = columns,
               .a = {g.logits.data, type, stride, false},
               .b = {g.weight.data, type, width, false},
               .c = to,
               .c_type = dx.dtype,
               .c_stride = width,
               .add = dx.accumulate ? to : nullptr},
              ctx);
    }
    if (const GradView& dweight = backward->dweight) {
      product({.m = columns,
               .n = width,
               .k = count,
               .a = {g.logits.data, type, stride, true},
               .b = {x, type, width, false},
               .c = dweight.data,
               .c_type = DType::kF32,
               .c_stride = width,
               .add = dweight.accumulate || first > 0 ? dweight.data : nullptr},
              ctx);
    }
  }
  if (backward != nullptr && rows == 0 && backward->dweight && !backward->dweight.accumulate) {
    ctx.stream->zero(backward->dweight.data, backward->dweight.bytes());
  }
  sum_kernel<<<1, kThreads, 0, stream(ctx)>>>(losses, largest, rows, g.scale, g.l2wrap,
                                              g.objective.as<float>(), g.loss_sum.as<double>());
  check_launch("cross_entropy");
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& g, Context& ctx) { run(g, nullptr, ctx); }
void cross_entropy_backward(const CrossEntropyBackward& g, Context& ctx) {
  run(g.forward, &g, ctx);
}

}  // namespace rookery::cuda
