// Linear layer without bias: y = x W^T (+ residual). Weights are [out, in] in memory in every
// generation.
//   dx = dy W,   dW = dy^T x,   dresidual = dy
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

#include "core/context.h"

namespace rookery {

// A weight matrix. `value` has the gradient; `low`, when there, is its bfloat16 copy, which the
// products read (training with float32 masters).
struct Weight {
  Tensor value;    // [N, K]: F32, F16 or BF16
  TensorView low;  // [N, K]: BF16, or empty
  // On a GPU: behind the last row there are rows of zeros up to padded_rows(N), in its gradient's
  // memory, too, so that products of odd sizes take the fast way.
  bool padded = false;

  const TensorView& product() const { return low ? low : static_cast<const TensorView&>(value); }
};

constexpr int64_t padded_rows(int64_t rows) { return (rows + 63) / 64 * 64; }

struct LinearForward {
  TensorView x;         // [T, K]
  TensorView weight;    // [N, K], what the products read
  TensorView residual;  // [T, N], or empty
  TensorView y;         // [T, N]
  TensorView low_x;     // [T, K] BF16, scratch for bfloat16 products, or empty
  bool padded = false;  // the weight is: see Weight

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.input("weight", weight);
    v.input("residual", residual);
    v.output("y", y);
  }
  double terms() const { return static_cast<double>(x.cols()); }
  // x, where there is room for its bfloat16 image.
  double roundings(std::string_view) const { return low_x ? 1 : 0; }
};

// Several linear layers that do not depend on each other; RWKV-7's time mixing has the most.
inline constexpr int kMaxLinears = 8;
struct LinearGroupForward {
  int count = 0;
  LinearForward part[kMaxLinears];

  template <class Visitor>
  void visit(Visitor& v) {
    static constexpr const char* kX[] = {"x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"};
    static constexpr const char* kWeight[] = {"weight0", "weight1", "weight2", "weight3",
                                              "weight4", "weight5", "weight6", "weight7"};
    static constexpr const char* kY[] = {"y0", "y1", "y2", "y3", "y4", "y5", "y6", "y7"};
    static_assert(std::size(kX) == kMaxLinears && std::size(kWeight) == kMaxLinears &&
                  std::size(kY) == kMaxLinears);
    for (int i = 0; i < count; ++i) {
      v.input(kX[i], part[i].x);
      v.input(kWeight[i], part[i].weight);
      v.output(kY[i], part[i].y);
    }
  }
  double terms() const {
    double longest = 0;
    for (int i = 0; i < count; ++i) longest = std::max(longest, part[i].terms());
    return longest;
  }
  double roundings(std::string_view) const {
    return std::any_of(part, part + count, [](const LinearForward& p) { return bool(p.low_x); });
  }
};

struct LinearBackward {
  LinearForward forward;
  TensorView dy;       // [T, N]
  GradView dx;         // [T, K]
  GradView dweight;    // [N, K] float32
  GradView dresidual;  // [T, N]
  TensorView low_dy;   // [T, N] BF16, scratch, or empty

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("y", dy);
    v.gradient("x", dx);
    v.gradient("weight", dweight);
    v.gradient("residual", dresidual);
  }
  // dx adds up over the outputs, dweight over the rows.
  double terms() const { return static_cast<double>(std::max(dy.rows(), dy.cols())); }
  // dy of float32 becomes bfloat16 for bfloat16 products, and so does x for dweight.
  double roundings(std::string_view name) const {
    const bool dy_rounded = low_dy || (forward.x.dtype == DType::kBF16 && dy.dtype == DType::kF32);
    // A GPU's library rounds a product of bfloat16 before it adds it to what is there.
    const bool sum_rounded = dx.accumulate && dx.dtype == DType::kBF16;
    if (name == "x") return dy_rounded + sum_rounded;
    if (name == "weight") return dy_rounded + (forward.low_x ? 1 : 0);
    return 0;
  }
};

namespace cpu {
void linear_forward(const LinearForward& g, Context& ctx);
void linear_group_forward(const LinearGroupForward& g, Context& ctx);
void linear_backward(const LinearBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void linear_forward(const LinearForward& g, Context& ctx);
void linear_group_forward(const LinearGroupForward& g, Context& ctx);
void linear_backward(const LinearBackward& g, Context& ctx);
}  // namespace cuda

// x [T, K], w [N, K] -> [T, N]. Throws when the widths differ.
Tensor linear(Context& ctx, const Tensor& x, const Weight& w, const Tensor& residual = {});

// The same with a choice of y's type.
Tensor linear_as(Context& ctx, DType y_type, const Tensor& x, const Weight& w,
                 const Tensor& residual = {});

// linear() of each pair, together: for few rows the threads meet once. Throws Error for more pairs
// than kMaxLinears, or none.
struct LinearPair {
  Tensor x;
  Weight w;
};
std::vector<Tensor> linear_group(Context& ctx, std::initializer_list<LinearPair> pairs);

// Scratch for the bfloat16 image of x, when products with this weight want one on this device; else
// empty.
TensorView low_copy(Context& ctx, const TensorView& x, const TensorView& weight);

}  // namespace rookery
