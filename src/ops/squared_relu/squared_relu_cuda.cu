// Squared ReLU on the GPU. Compares instead of fmaxf, which would turn NaN into 0.

#include "core/cuda/elementwise.cuh"
#include "ops/squared_relu/squared_relu.h"

namespace rookery::cuda {
namespace {

template <class T, int kPack_>
struct ForwardOp {
  static constexpr int kPack = kPack_;
  const T* x;
  T* y;

  struct Inputs {
    float x[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const { load_pack(x + i, in.x); }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) out[k] = in.x[k] < 0 ? 0.0f : in.x[k] * in.x[k];
    store_pack(y + i, out);
  }
};

template <class T, int kPack_>
struct BackwardOp {
  static constexpr int kPack = kPack_;
  const T *x, *dy;
  GradientOut<T> dx;

  struct Inputs {
    float x[kPack], dy[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const {
    load_pack(x + i, in.x);
    load_pack(dy + i, in.dy);
  }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) out[k] = (in.x[k] < 0 ? 0.0f : 2 * in.x[k]) * in.dy[k];
    write_gradient(dx, i, out);
  }
};

}  // namespace

void squared_relu_forward(const SquaredReluForward& g, Context& ctx) {
  with_type(g.x.dtype, "squared_relu", [&](auto type) {
    using T = decltype(type);
    launch_elementwise<kPackOf<T>>(
        ctx, "squared_relu", g.x.count(), all_aligned(g.x.data, g.y.data), [&](auto pack) {
          return ForwardOp<T, pack()>{static_cast<const T*>(g.x.data), static_cast<T*>(g.y.data)};
        });
  });
}

void squared_relu_backward(const SquaredReluBackward& g, Context& ctx) {
  if (!g.dx) return;
  with_type(g.forward.x.dtype, "squared_relu", [&](auto type) {
    using T = decltype(type);
    launch_elementwise<kPackOf<T>>(
        ctx, "squared_relu backward", g.dy.count(),
        all_aligned(g.forward.x.data, g.dy.data, g.dx.data), [&](auto pack) {
          return BackwardOp<T, pack()>{static_cast<const T*>(g.forward.x.data),
                                       static_cast<const T*>(g.dy.data), GradientOut<T>(g.dx)};
        });
  });
}

}  // namespace rookery::cuda
