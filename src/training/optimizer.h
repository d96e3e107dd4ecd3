// Gradients, moments and the update of all parameters of a model.
#pragma once

#include <vector>

#include "core/context.h"
#include "models/model.h"

namespace rookery {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.99, epsilon = 1e-18;
  double weight_decay = 0;  // of matrices; 0 makes AdamW Adam
  double clip = 1;          // of the global norm; 0: no clipping
};

class Optimizer {
 public:
  // The model must outlive this and must have been prepared for training.
  Optimizer(const Model& model, const OptimizerOptions& options);

  // Tells the tape where the gradients go; with `accumulate` they are added to what is there.
  void attach(Tape& tape, bool accumulate) const;
  // Clips and updates; `step` counts from 1. Returns the global norm before clipping. Throws Error,
  // and changes nothing, when the norm is not finite.
  double step(Context& ctx, double learning_rate, int64_t step);

  TensorView gradient(size_t parameter) const { return gradients_[parameter]; }
  TensorView m(size_t parameter) const { return m_[parameter]; }
  TensorView v(size_t parameter) const { return v_[parameter]; }
  // Bytes of gradients and moments of a model.
  static int64_t gradient_bytes(const Model& model) { return model.parameter_count() * 4; }
  static int64_t moment_bytes(const Model& model) { return model.parameter_count() * 8; }

 private:
  const Model& model_;
  OptimizerOptions options_;
  Memory memory_;
  std::vector<TensorView> gradients_, m_, v_;
};

}  // namespace rookery
