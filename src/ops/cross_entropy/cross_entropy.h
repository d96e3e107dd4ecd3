// The model's head and its loss in one operator, a chunk of rows at a time, so that the logits of a
// whole batch never exist:
//   z = x W^T,   loss_t = log sum_j e^(z_tj) - z_t,target
//   objective = scale * sum over t of (loss_t + l2wrap / 2 * (max_j z_tj)^2)
// The second term is L2Wrap of the released RWKV code, which pulls the largest logit towards zero:
// its gradient is l2wrap * scale * max z at the largest logit's index. It is not part of the
// reported loss. A target below 0 is masked: no loss, no gradient. While recording, the gradients
// are computed here, too.
#pragma once

#include <string_view>

#include "core/context.h"
#include "ops/linear/linear.h"

namespace rookery {

struct CrossEntropyForward {
  TensorView x;               // [T, C]
  TensorView weight;          // [V, C], what the products read
  Mirrored<int32_t> targets;  // [T]
  double scale = 1, l2wrap = 0;
  TensorView losses;     // [T] nats; 0 where masked
  TensorView objective;  // [1]
  TensorView loss_sum;   // [1] F64: of all rows
  // [chunk, V] scratch, float32; on a GPU in the type of x, with padded_rows(V) columns
  TensorView logits;
  bool padded = false;  // the weight and its gradient are: see Weight
  TensorView low_x,
      low_logits;  // BF16 [chunk, C], [chunk, V] scratch for bfloat16 products, or empty

  template <class Visitor>
  void visit(Visitor& v) {
    v.input("x", x);
    v.input("weight", weight);
    v.output("losses", losses);
    v.output("objective", objective);
    v.output("loss_sum", loss_sum);
    v.saved("logits", logits);
    v.mirrored("targets", targets, x.rows());
  }
  double terms() const { return static_cast<double>(std::max(weight.rows(), x.rows()) + x.cols()); }
  // x for bfloat16 products, and logits that are bfloat16.
  double roundings(std::string_view) const {
    return (low_x ? 1 : 0) + (logits.dtype == DType::kBF16 ? 1 : 0);
  }
  // A loss is the difference of two numbers of the size of the logits.
  double magnitude(std::string_view name) const;
};

struct CrossEntropyBackward {
  CrossEntropyForward forward;  // the backward writes its losses and objective, too
  TensorView dobjective;        // [1]
  GradView dx;                  // [T, C]
  GradView dweight;             // [V, C]

  template <class Visitor>
  void visit(Visitor& v) {
    v.upstream("objective", dobjective);
    v.gradient("x", dx);
    v.gradient("weight", dweight);
  }
  // As in the forward, and the gradient of the logits; dweight reads the rounded x once more, and
  // a GPU's library rounds dx before it adds it to what is there.
  double roundings(std::string_view name) const {
    const bool low = forward.low_logits || forward.logits.dtype == DType::kBF16;
    const bool again =
        name == "weight" ? bool(forward.low_x) : dx.accumulate && dx.dtype == DType::kBF16;
    return forward.roundings(name) + (low ? 1 : 0) + (again ? 1 : 0);
  }
  // The gradient of the logits is dobjective times (softmax - 1) at the target, a difference: its
  // rounding is that of |dobjective|, whatever remains of it.
  double magnitude(std::string_view name) const;
};

namespace cpu {
void cross_entropy_forward(const CrossEntropyForward& g, Context& ctx);
void cross_entropy_backward(const CrossEntropyBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void cross_entropy_forward(const CrossEntropyForward& g, Context& ctx);
void cross_entropy_backward(const CrossEntropyBackward& g, Context& ctx);
}  // namespace cuda

struct CrossEntropyOptions {
  double scale = 1;
  double l2wrap = 0;  // the released code trains with 1e-4
  // [1] the gradient of the objective, usually 1 / number of target tokens of the step; empty: 1
  TensorView objective_gradient = {};
};

struct CrossEntropyResult {
  TensorView losses;     // [T]
  TensorView objective;  // [1]
  TensorView loss_sum;   // [1] F64
};

// x [T, C], head [V, C], targets [T] -> losses. Throws when the widths differ or, before anything
// is computed, when a target is V or more.
CrossEntropyResult cross_entropy(Context& ctx, const Tensor& x, const Weight& head,
                                 Mirrored<int32_t> targets, const CrossEntropyOptions& options);

}  // namespace rookery
