// A model from the names and tensors of a checkpoint.
#pragma once

#include <cstdint>
#include <span>

#include "models/model.h"

namespace rookery {

// How matrices are kept in memory; vectors are float32.
enum class MatrixType : uint8_t { kAsStored, kF32, kF16, kBF16 };
MatrixType matrix_type(DType dtype);

// The generation and the sizes that these tensors have. Throws Error for a generation that is not
// supported, and for what is no model.
ModelConfig config_from_tensors(std::span<const NamedTensor> tensors, const NormEpsilons& epsilons);
// A model as planned(), with the sizes of these tensors. Throws Error naming what is missing, of
// another shape, unknown, or of a generation that is not supported.
Model plan_from_tensors(std::span<const NamedTensor> tensors, const NormEpsilons& epsilons = {});
// The model of these tensors, read one after another: of those that must be made no more than one
// is in memory besides the model. Throws Error as plan_from_tensors() does.
Model model_from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                         const NormEpsilons& epsilons = {});

// Fills one parameter of a model with a checkpoint's tensor of as many numbers. `scratch` has room
// for the tensor if its numbers must be made and then converted.
void read_parameter(const Parameter& parameter, const NamedTensor& tensor, void* scratch);
// The way back: a parameter as checkpoints have it, by its name and in its type. Its numbers are
// made if they are on a GPU or transposed there; the parameter must live as long.
NamedTensor stored_tensor(const Parameter& parameter);

}  // namespace rookery
