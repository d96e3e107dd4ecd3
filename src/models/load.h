// A model from the names and tensors of a checkpoint.
#pragma once

#include <cstdint>
#include <span>

#include "models/model.h"

namespace rookery {

// How matrices are kept in memory; vectors are float32.
enum class MatrixType : uint8_t { kAsStored, kF32, kF16, kBF16 };
MatrixType matrix_type(DType dtype);

// Sizes and generation that these tensors have. Throws Error for a generation that is not
// supported, and for what is no model.
ModelConfig config_from_tensors(std::span<const NamedTensor> tensors);
// A model as planned(), with the sizes of these tensors. Throws Error naming what is missing, of
// another shape, unknown, or of a generation that is not supported.
Model plan_from_tensors(std::span<const NamedTensor> tensors, float norm_epsilon = 1e-5f);
// The model of these tensors, read one after another: of those that must be made no more than one
// is in memory besides the model. Throws Error as plan_from_tensors() does.
Model model_from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                         float norm_epsilon = 1e-5f);

}  // namespace rookery
