// Layer norm (Ba et al. 2016), each row by itself:
//   y = (x - mean) * rstd * weight + bias,   mean = sum x / C,   rstd = 1 / sqrt(sum (x - mean)^2 /
//   C + epsilon)
#pragma once

#include <algorithm>
#include <string_view>

#include "core/context.h"

namespace rookery {

struct LayerNormForward {
  TensorView x;       // [T, C]
  TensorView weight;  // [C]
  TensorView bias;    // [C]
  float epsilon = 1e-5f;
  TensorView y;           // [T, C]
  TensorView statistics;  // [T, 2]: mean, rstd; for the backward

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.input("weight", weight);
    v.input("bias", bias);
    v.output("y", y);
    v.output("statistics", statistics);
  }
  double terms() const { return 4.0 * static_cast<double>(x.cols()); }
  // y subtracts the mean: its rounding is that of x, scaled as y is.
  double magnitude(std::string_view name) const;
};

struct LayerNormBackward {
  LayerNormForward forward;
  TensorView dy;            // [T, C]
  GradView dx;              // [T, C]
  GradView dweight, dbias;  // [C]
  TensorView partial_sums;  // [threads, 2, C], scratch: each thread's share of dweight and dbias

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
    v.gradient("weight", dweight);
    v.gradient("bias", dbias);
  }
  // dx = rstd (dy w - its parts along 1 and along the normalised x): what is subtracted may be
  // nearly all of dy w.
  double magnitude(std::string_view name) const;
  // Of dx in its row; of the other two over the rows.
  double terms() const {
    return 4.0 * static_cast<double>(std::max(forward.x.rows(), forward.x.cols()));
  }
};

namespace cpu {
void layer_norm_forward(const LayerNormForward& g, Context& ctx);
void layer_norm_backward(const LayerNormBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void layer_norm_forward(const LayerNormForward& g, Context& ctx);
void layer_norm_backward(const LayerNormBackward& g, Context& ctx);
}  // namespace cuda

// x [T, C], weight and bias [C] -> [T, C], an activation. Throws when the widths differ.
Tensor layer_norm(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  float epsilon);
// The same with a choice of y's type.
Tensor layer_norm_as(Context& ctx, DType y_type, const Tensor& x, const Tensor& weight,
                     const Tensor& bias, float epsilon);

}  // namespace rookery
