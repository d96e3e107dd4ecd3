// Dropout (Srivastava et al. 2014) and the residual connection behind it:
//   y = residual + keep * x / (1 - probability)
// keep is 1 where the element's random number, word i % 4 of philox(seed, stream, i / 4) for
// element i, is at least probability * 2^32. Counted and not drawn in turn: forward, backward and a
// replay see one mask.
#pragma once

#include <cstdint>

#include "core/context.h"

namespace rookery {

struct DropoutForward {
  TensorView x;         // any shape
  TensorView residual;  // as x, or empty: 0
  float probability = 0;
  uint64_t seed = 0;
  Mirrored<uint64_t> base;  // of the step; none: 0
  uint64_t offset = 0;      // the stream is base + offset
  TensorView y;             // as x

  uint64_t stream() const { return (base ? *base : 0) + offset; }
  // Random numbers below this drop their element. Below 2^32, because probability is below 1 -
  // 2^-25.
  uint32_t threshold() const { return static_cast<uint32_t>(probability * 0x1p32); }

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.input("residual", residual);
    v.output("y", y);
    v.mirrored("base", base, 1);
  }
  double terms() const { return 2; }
};

struct DropoutBackward {
  DropoutForward forward;
  TensorView dy;           // as x
  GradView dx, dresidual;  // as x; one memory when x and residual are one tensor

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
    v.gradient("residual", dresidual);
  }
};

namespace cpu {
void dropout_forward(const DropoutForward& g, Context& ctx);
void dropout_backward(const DropoutBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void dropout_forward(const DropoutForward& g, Context& ctx);
void dropout_backward(const DropoutBackward& g, Context& ctx);
}  // namespace cuda

// x and, unless empty, residual of one shape -> that shape; 0 <= probability < 1. Takes one stream
// of the context's random numbers. Throws when the shapes differ or the probability is no such
// number.
Tensor dropout(Context& ctx, const Tensor& x, float probability, const Tensor& residual = {});

}  // namespace rookery
