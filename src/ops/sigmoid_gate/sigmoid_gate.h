// A gate, and the residual connection behind it: y = residual + sigmoid(r) * v,
//   sigmoid(r) = 1 / (1 + e^-r)
#pragma once

#include "core/context.h"

namespace rookery {

struct SigmoidGateForward {
  TensorView r;         // [T, C]
  TensorView v;         // [T, C]
  TensorView residual;  // [T, C], or empty: 0
  TensorView y;         // [T, C]

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.input("r", r);
    visitor.input("v", v);
    visitor.input("residual", residual);
    visitor.output("y", y);
  }
  double terms() const { return 4; }  // exponential, sigmoid, product, sum
};

// dr = dy v s (1 - s), dv = dy s, dresidual = dy, with s = sigmoid(r)
struct SigmoidGateBackward {
  SigmoidGateForward forward;
  TensorView dy;           // [T, C]
  GradView dr;             // [T, C]
  GradView dv, dresidual;  // [T, C]; one memory when v and residual are one tensor

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.upstream("y", dy);
    visitor.gradient("r", dr);
    visitor.gradient("v", dv);
    visitor.gradient("residual", dresidual);
  }
};

namespace cpu {
void sigmoid_gate_forward(const SigmoidGateForward& g, Context& ctx);
void sigmoid_gate_backward(const SigmoidGateBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void sigmoid_gate_forward(const SigmoidGateForward& g, Context& ctx);
void sigmoid_gate_backward(const SigmoidGateBackward& g, Context& ctx);
}  // namespace cuda

// r, v and, unless empty, residual: [T, C] -> [T, C]. Throws when the shapes differ.
Tensor sigmoid_gate(Context& ctx, const Tensor& r, const Tensor& v, const Tensor& residual = {});

}  // namespace rookery
