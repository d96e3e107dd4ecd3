// Sigmoid gate on the GPU. r and v are activations, float32 or bfloat16; with a residual stream y
// and its gradient are of that stream's type, float32. The backward computes the sigmoid again: an
// exponential costs less than another tensor read.

#include "core/cuda/elementwise.cuh"
#include "ops/sigmoid_gate/sigmoid_gate.h"

namespace rookery::cuda {
namespace {

// Far out e^-r is 0 or infinity, and the result 1 or 0.
__device__ __forceinline__ float sigmoid(float r) { return __fdividef(1.0f, 1.0f + __expf(-r)); }

template <class T, class Y, int kPack_>
struct ForwardOp {
  static constexpr int kPack = kPack_;
  const T *r, *v;
  const Y* residual;
  Y* y;

  struct Inputs {
    float r[kPack], v[kPack], residual[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const {
    load_pack(r + i, in.r);
    load_pack(v + i, in.v);
    if (residual != nullptr) load_pack(residual + i, in.residual);
  }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      out[k] = fmaf(sigmoid(in.r[k]), in.v[k], residual == nullptr ? 0.0f : in.residual[k]);
    }
    store_pack(y + i, out);
  }
};

template <class T, class Y, int kPack_>
struct BackwardOp {
  static constexpr int kPack = kPack_;
  const T *r, *v;
  const Y* dy;
  GradientOut<T> dr, dv;
  GradientOut<Y> dresidual;

  struct Inputs {
    float r[kPack], v[kPack], dy[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const {
    load_pack(r + i, in.r);
    load_pack(v + i, in.v);
    load_pack(dy + i, in.dy);
  }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float of_r[kPack], of_v[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float gate = sigmoid(in.r[k]);
      of_v[k] = in.dy[k] * gate;
      of_r[k] = of_v[k] * in.v[k] * (1 - gate);
    }
    // In this order: r, v and residual may be one tensor, whose later gradients are added.
    write_gradient(dr, i, of_r);
    write_gradient(dv, i, of_v);
    write_gradient(dresidual, i, in.dy);
  }
};

// Calls body(T{}, Y{}).
template <class Body>
void with_types(const SigmoidGateForward& g, const Body& body) {
  check(g.v.dtype == g.r.dtype && (!g.residual || g.residual.dtype == g.y.dtype) &&
        (g.y.dtype == g.r.dtype || g.y.dtype == DType::kF32)) ||
      fail(
          "sigmoid_gate on the GPU takes r and v of one type, and residual and y of that type or "
          "f32; got {}, {} and {}",
          name_of(g.r.dtype), name_of(g.v.dtype), name_of(g.y.dtype));
  with_type(g.r.dtype, "sigmoid_gate", [&](auto type) {
    if (g.y.dtype == DType::kF32) {
      body(type, float{});
    } else {
      body(type, type);
    }
  });
}

}  // namespace

void sigmoid_gate_forward(const SigmoidGateForward& g, Context& ctx) {
  with_types(g, [&](auto type, auto wide) {
    using T = decltype(type);
    using Y = decltype(wide);
    launch_elementwise<kPackOf<T>>(
        ctx, "sigmoid_gate", g.y.count(),
        all_aligned(g.r.data, g.v.data, g.residual.data, g.y.data), [&](auto pack) {
          return ForwardOp<T, Y, pack()>{
              static_cast<const T*>(g.r.data), static_cast<const T*>(g.v.data),
              static_cast<const Y*>(g.residual.data), static_cast<Y*>(g.y.data)};
        });
  });
}

void sigmoid_gate_backward(const SigmoidGateBackward& g, Context& ctx) {
  if (!g.dr && !g.dv && !g.dresidual) return;
  with_types(g.forward, [&](auto type, auto wide) {
    using T = decltype(type);
    using Y = decltype(wide);
    launch_elementwise<kPackOf<T>>(ctx, "sigmoid_gate backward", g.dy.count(),
                                   all_aligned(g.forward.r.data, g.forward.v.data, g.dy.data,
                                               g.dr.data, g.dv.data, g.dresidual.data),
                                   [&](auto pack) {
                                     return BackwardOp<T, Y, pack()>{
                                         static_cast<const T*>(g.forward.r.data),
                                         static_cast<const T*>(g.forward.v.data),
                                         static_cast<const Y*>(g.dy.data),
                                         GradientOut<T>(g.dr),
                                         GradientOut<T>(g.dv),
                                         GradientOut<Y>(g.dresidual)};
                                   });
  });
}

}  // namespace rookery::cuda
