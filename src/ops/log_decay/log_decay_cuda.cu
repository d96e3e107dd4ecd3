// The log of the decay on the GPU. Always float32: it is made of parameters.

#include "core/cuda/elementwise.cuh"
#include "ops/log_decay/log_decay.h"

namespace rookery::cuda {
namespace {

template <int kPack_>
struct ForwardOp {
  static constexpr int kPack = kPack_;
  const float* x;
  float* y;

  struct Inputs {
    float x[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const { load_pack(x + i, in.x); }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) out[k] = -expf(in.x[k]);
    store_pack(y + i, out);
  }
};

template <int kPack_>
struct BackwardOp {
  static constexpr int kPack = kPack_;
  const float *y, *dy;
  GradientOut<float> dx;

  struct Inputs {
    float y[kPack], dy[kPack];
  };
  __device__ void load(int64_t i, Inputs& in) const {
    load_pack(y + i, in.y);
    load_pack(dy + i, in.dy);
  }
  __device__ void finish(int64_t i, const Inputs& in) const {
    float out[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) out[k] = in.dy[k] * in.y[k];
    write_gradient(dx, i, out);
  }
};

void check_type(const TensorView& x) {
  check(x.dtype == DType::kF32) || fail("log_decay on the GPU takes f32, got {}", name_of(x.dtype));
}

}  // namespace

void log_decay_forward(const LogDecayForward& g, Context& ctx) {
  check_type(g.x);
  launch_elementwise<
      4>(ctx, "log_decay", g.x.count(), all_aligned(g.x.data, g.y.data), [&](auto pack) {
    return ForwardOp<pack()>{static_cast<const float*>(g.x.data), static_cast<float*>(g.y.data)};
  });
}

void log_decay_backward(const LogDecayBackward& g, Context& ctx) {
  if (!g.dx) return;
  check_type(g.forward.x);
  launch_elementwise<4>(ctx, "log_decay backward", g.dy.count(),
                        all_aligned(g.forward.y.data, g.dy.data, g.dx.data), [&](auto pack) {
                          return BackwardOp<pack()>{static_cast<const float*>(g.forward.y.data),
                                                    static_cast<const float*>(g.dy.data),
                                                    GradientOut<float>(g.dx)};
                        });
}

}  // namespace rookery::cuda
