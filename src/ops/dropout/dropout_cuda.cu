// Dropout on the GPU. Each thread draws the random numbers of its elements, four from a counter.
// The step's base is read here: a captured graph sees each step's own.

#include "core/cuda/elementwise.cuh"
#include "core/random.h"
#include "ops/dropout/dropout.h"

namespace rookery::cuda {
namespace {

struct Mask {
  uint64_t seed, offset;
  const uint64_t* base;  // null: 0
  uint32_t threshold;
  float scale;

  explicit Mask(const DropoutForward& g)
      : seed(g.seed),
        offset(g.offset),
        base(g.base.device),
        threshold(g.threshold()),
        scale(1 / (1 - g.probability)) {}

  // Elements i .. i + kPack - 1 scaled or dropped; i is a multiple of kPack.
  template <int kPack>
  __device__ __forceinline__ void apply(int64_t i, const float (&x)[kPack],
                                        float (&out)[kPack]) const {
    const uint64_t random_stream = (base == nullptr ? 0 : *base) + offset;
    if constexpr (kPack == 1) {
      out[0] = keep(philox(seed, random_stream, i / 4)[i % 4], x[0]);
    } else {
      static_assert(kPack % 4 == 0);
#pragma unroll
      for (int k = 0; k < kPack; k += 4) {
        const PhiloxBlock block = philox(seed, random_stream, (i + k) / 4);
        out[k] = keep(block.x, x[k]);
        out[k + 1] = keep(block.y, x[k + 1]);
        out[k + 2] = keep(block.z, x[k + 2]);
        out[k + 3] = keep(block.w, x[k + 3]);
      }
    }
  }
  __device__ __forceinline__ float keep(uint32_t number, float x) const {
    return number >= threshold ? x * scale : 0.0f;
  }
};

template <class T, class Y, int kPack_>
struct ForwardOp {
  static constexpr int kPack = kPack_;
  const T* x;
  const Y* residual;
  Y* y;
  Mask mask;

  struct Inputs {
    float x[kPack], residual[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const {
    load_pack(x + i, in.x);
    if (residual != nullptr) load_pack(residual + i, in.residual);
  }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
    mask.apply(i, in.x, out);
    if (residual != nullptr) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) out[k] += in.residual[k];
    }
    store_pack(y + i, out);
  }
};

template <class T, class Y, int kPack_>
struct BackwardOp {
  static constexpr int kPack = kPack_;
  const Y* dy;
  GradientOut<T> dx;
  GradientOut<Y> dresidual;
  Mask mask;

  struct Inputs {
    float dy[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const { load_pack(dy + i, in.dy); }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
    mask.apply(i, in.dy, out);
    // In this order: x and residual may be one tensor, whose second gradient is added.
    write_gradient(dx, i, out);
    write_gradient(dresidual, i, in.dy);
  }
};

// Calls body(T{}, Y{}).
template <class Body>
void with_types(const DropoutForward& g, const Body& body) {
  check((!g.residual || g.residual.dtype == g.y.dtype) &&
        (g.y.dtype == g.x.dtype || g.y.dtype == DType::kF32)) ||
      fail("dropout on the GPU takes residual and y of x's type or f32; x is {}, y {}",
           name_of(g.x.dtype), name_of(g.y.dtype));
  with_type(g.x.dtype, "dropout", [&](auto type) {
    if (g.y.dtype == DType::kF32) {
      body(type, float{});
    } else {
      body(type, type);
    }
  });
}

}  // namespace

void dropout_forward(const DropoutForward& g, Context& ctx) {
  with_types(g, [&](auto type, auto wide) {
    using T = decltype(type);
    using Y = decltype(wide);
    launch_elementwise<kPackOf<T>>(
        ctx, "dropout", g.x.count(), all_aligned(g.x.data, g.residual.data, g.y.data),
        [&](auto pack) {
          return ForwardOp<T, Y, pack()>{static_cast<const T*>(g.x.data),
                                         static_cast<const Y*>(g.residual.data),
                                         static_cast<Y*>(g.y.data), Mask(g)};
        });
  });
}

void dropout_backward(const DropoutBackward& g, Context& ctx) {
  if (!g.dx && !g.dresidual) return;
  with_types(g.forward, [&](auto type, auto wide) {
    using T = decltype(type);
    using Y = decltype(wide);
    launch_elementwise<kPackOf<T>>(
        ctx, "dropout backward", g.dy.count(), all_aligned(g.dy.data, g.dx.data, g.dresidual.data),
        [&](auto pack) {
          return BackwardOp<T, Y, pack()>{static_cast<const Y*>(g.dy.data), GradientOut<T>(g.dx),
                                          GradientOut<Y>(g.dresidual), Mask(g.forward)};
        });
  });
}

}  // namespace rookery::cuda
