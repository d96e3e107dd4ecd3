// AdamW on the GPU. Tensors come as arguments of the kernel, as many as fit: a model takes a few
// launches. What is one number per step is computed once, in double, by a kernel before them.

#include <cmath>

#include "core/cuda/elementwise.cuh"
#include "ops/adamw/adamw.h"

namespace rookery::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPacks = 2;         // of four elements, read at once by a thread
constexpr int64_t kChunk = 8192;  // elements of a block

struct StepNumbers {
  bool nothing;  // the norm is not finite
  float scale, epsilon, keep1, take1, keep2, take2, correction2;
  double rate, corrected_rate;  // of a tensor whose multiplier is 1
};

// Arguments of a kernel may have 32764 bytes.
struct Tensors {
  static constexpr int kMost = 540;
  int size;
  int first_block[kMost];  // ascending
  float rate_multiplier[kMost], weight_decay[kMost];
  int64_t count[kMost];  // of elements; never 0
  const float* gradient[kMost];
  float *parameter[kMost], *m[kMost], *v[kMost];
  bfloat16* low[kMost];  // null: none
  const StepNumbers* numbers;
};
static_assert(sizeof(Tensors) <= 32764);

__global__ void numbers_kernel(const AdamWStep* step, const double* norm, StepNumbers* numbers) {
  const AdamWStep s = *step;
  const auto t = static_cast<double>(s.step);
  // As clip_scale().
  const double scale = s.clip > 0 ? fmin(1.0, s.clip / (*norm + 1e-6)) : 1.0;
  numbers->nothing = !isfinite(*norm);
  numbers->scale = static_cast<float>(scale);
  numbers->epsilon = static_cast<float>(s.epsilon);
  numbers->keep1 = static_cast<float>(s.beta1);
  numbers->take1 = static_cast<float>(1 - s.beta1);
  numbers->keep2 = static_cast<float>(s.beta2);
  numbers->take2 = static_cast<float>(1 - s.beta2);
  numbers->correction2 = static_cast<float>(1 / sqrt(1 - pow(s.beta2, t)));
  numbers->rate = s.learning_rate;
  numbers->corrected_rate = s.learning_rate / (1 - pow(s.beta1, t));
}

struct Rule {
  float scale, epsilon, keep1, take1, keep2, take2, correction2, corrected_rate, shrink;

  __device__ __forceinline__ void apply(float gradient, float& parameter, float& m,
                                        float& v) const {
    gradient *= scale;
    m = fmaf(keep1, m, take1 * gradient);
    v = fmaf(keep2, v, take2 * gradient * gradient);
    const float direction = m / fmaf(sqrtf(v), correction2, epsilon);
    parameter = fmaf(-shrink, parameter, parameter);
    parameter = fmaf(-corrected_rate, direction, parameter);
  }
};

__global__ void __launch_bounds__(kThreads) step_kernel(const __grid_constant__ Tensors tensors) {
  // The last tensor that begins at this block or before.
  int tensor = 0;
  for (int beyond = tensors.size; beyond - tensor > 1;) {
    const int middle = (tensor + beyond) / 2;
    (tensors.first_block[middle] <= static_cast<int>(blockIdx.x) ? tensor : beyond) = middle;
  }
  const StepNumbers& numbers = *tensors.numbers;
  if (numbers.nothing) return;
  const double multiplier = tensors.rate_multiplier[tensor];
  const Rule rule{numbers.scale,
                  numbers.epsilon,
                  numbers.keep1,
                  numbers.take1,
                  numbers.keep2,
                  numbers.take2,
                  numbers.correction2,
                  static_cast<float>(numbers.corrected_rate * multiplier),
                  static_cast<float>(numbers.rate * multiplier * tensors.weight_decay[tensor])};
  const int64_t begin = (blockIdx.x - tensors.first_block[tensor]) * kChunk;
  const int64_t rest = tensors.count[tensor] - begin;
  const int count = static_cast<int>(rest < kChunk ? rest : kChunk);
  const float* const gradients = tensors.gradient[tensor] + begin;
  float* const parameters = tensors.parameter[tensor] + begin;
  float* const ms = tensors.m[tensor] + begin;
  float* const vs = tensors.v[tensor] + begin;
  bfloat16* const lows = tensors.low[tensor] == nullptr ? nullptr : tensors.low[tensor] + begin;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  int done = 0;
  if (aligned(gradients) && aligned(parameters) && aligned(ms) && aligned(vs) && aligned(lows)) {
    done = count / 4 * 4;
    constexpr int kStep = 4 * kThreads;
    for (int first = 4 * threadIdx.x; first < done; first += kPacks * kStep) {
      float gradient[kPacks][4], parameter[kPacks][4], m[kPacks][4], v[kPacks][4];
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = first + p * kStep;
        if (i >= done) continue;
        load_pack(gradients + i, gradient[p]);
        load_pack(parameters + i, parameter[p]);
        load_pack(ms + i, m[p]);
        load_pack(vs + i, v[p]);
      }
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = first + p * kStep;
        if (i >= done) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          rule.apply(gradient[p][k], parameter[p][k], m[p][k], v[p][k]);
        }
        store_pack(parameters + i, parameter[p]);
        store_pack(ms + i, m[p]);
        store_pack(vs + i, v[p]);
        if (lows != nullptr) store_pack(lows + i, parameter[p]);
      }
    }
  }
  for (int i = done + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    float parameter = parameters[i], m = ms[i], v = vs[i];
    rule.apply(gradients[i], parameter, m, v);
    parameters[i] = parameter;
    ms[i] = m;
    vs[i] = v;
    if (lows != nullptr) lows[i] = from_float<bfloat16>(parameter);
  }
}

}  // namespace

void adamw_forward(const AdamWForward& g, Context& ctx) {
  const ArenaScope scope(*ctx.arena);
  auto* const numbers = static_cast<StepNumbers*>(ctx.arena->allocate(sizeof(StepNumbers)));
  numbers_kernel<<<1, 1, 0, stream(ctx)>>>(g.step.device, static_cast<const double*>(g.norm.data),
                                           numbers);
  check_launch("adamw");
  Tensors tensors;
  tensors.size = 0;
  tensors.numbers = numbers;
  int blocks = 0;
  const auto launch = [&] {
    if (blocks == 0) return;
    step_kernel<<<blocks, kThreads, 0, stream(ctx)>>>(tensors);
    check_launch("adamw");
    tensors.size = blocks = 0;
  };
  for (const AdamWTensor& t : g.tensors) {
    const int64_t count = t.parameter.count();
    if (count == 0) continue;
    const int i = tensors.size++;
    tensors.first_block[i] = blocks;
    tensors.rate_multiplier[i] = t.rate_multiplier;
    tensors.weight_decay[i] = t.weight_decay;
    tensors.count[i] = count;
    tensors.gradient[i] = static_cast<const float*>(t.gradient.data);
    tensors.parameter[i] = static_cast<float*>(t.parameter.data);
    tensors.m[i] = static_cast<float*>(t.m.data);
    tensors.v[i] = static_cast<float*>(t.v.data);
    tensors.low[i] = static_cast<bfloat16*>(t.low.data);
    blocks += static_cast<int>(ceil_div(count, kChunk));
    if (tensors.size == Tensors::kMost) launch();
  }
  launch();
}

}  // namespace rookery::cuda
