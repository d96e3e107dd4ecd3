// The log of the decay from the stored time_decay (RWKV-4 to 6, where the decay itself is
// exp(-exp(x))):
//   y = -exp(x)
#pragma once

#include "core/context.h"

namespace rookery {

struct LogDecayForward {
  TensorView x;  // any shape, usually [A]
  TensorView y;  // as x

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.output("y", y);
  }
  double terms() const { return 1; }
};

struct LogDecayBackward {
  LogDecayForward forward;
  TensorView dy;  // as x
  GradView dx;    // as x: dy * y

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
  }
};

namespace cpu {
void log_decay_forward(const LogDecayForward& g, Context& ctx);
void log_decay_backward(const LogDecayBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void log_decay_forward(const LogDecayForward& g, Context& ctx);
void log_decay_backward(const LogDecayBackward& g, Context& ctx);
}  // namespace cuda

// x of any shape -> the same shape.
Tensor log_decay(Context& ctx, const Tensor& x);

}  // namespace rookery
