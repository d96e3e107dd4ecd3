// Gradients, moments and the update of the trainable parameters of a model.
#pragma once

#include <span>
#include <vector>

#include "core/context.h"
#include "models/model.h"
#include "ops/adamw/adamw.h"

namespace rookery {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.99, epsilon = 1e-18;
  double weight_decay = 0;  // of matrices; 0 makes AdamW Adam
  double clip = 1;          // of the global norm; 0: no clipping
};

class Optimizer {
 public:
  // What belongs to one parameter: its gradient and Adam's moments, float32, in its shape.
  struct Entry {
    const Parameter* parameter;
    TensorView gradient, m, v;
  };

  // The model must outlive this and must have been prepared for training. Throws Error when a
  // trainable parameter is not float32.
  Optimizer(const Model& model, const OptimizerOptions& options);

  // Tells the tape where the gradients go; with `accumulate` they are added to what is there.
  void attach(Tape& tape, bool accumulate) const;
  // The numbers of a step; `step` counts from 1.
  AdamWStep numbers(double learning_rate, int64_t step) const;
  // Clips and updates; nothing changes when the norm is not finite. Returns the global norm [1] F64
  // before clipping, in the context's arena.
  TensorView step(Context& ctx, Mirrored<AdamWStep> numbers) const;

  // The trainable parameters in the model's order.
  std::span<const Entry> entries() const { return entries_; }
  // Bytes of gradients and moments of a model.
  static int64_t gradient_bytes(const Model& model);
  static int64_t moment_bytes(const Model& model) { return 2 * gradient_bytes(model); }

 private:
  OptimizerOptions options_;
  Memory memory_;
  std::vector<Entry> entries_;
};

}  // namespace rookery
