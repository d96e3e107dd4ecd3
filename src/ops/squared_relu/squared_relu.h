// Squared ReLU (So et al. 2021), the activation of the channel mixing: y = max(x, 0)^2. NaN stays
// NaN.
#pragma once

#include "core/context.h"

namespace rookery {

struct SquaredReluForward {
  TensorView x;  // any shape
  TensorView y;  // as x

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.output("y", y);
  }
  double terms() const { return 1; }
};

struct SquaredReluBackward {
  SquaredReluForward forward;
  TensorView dy;  // as x
  GradView dx;    // as x: 2 max(x, 0) dy

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
  }
};

namespace cpu {
void squared_relu_forward(const SquaredReluForward& g, Context& ctx);
void squared_relu_backward(const SquaredReluBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void squared_relu_forward(const SquaredReluForward& g, Context& ctx);
void squared_relu_backward(const SquaredReluBackward& g, Context& ctx);
}  // namespace cuda

// x of any shape -> the same shape.
Tensor squared_relu(Context& ctx, const Tensor& x);

}  // namespace rookery
