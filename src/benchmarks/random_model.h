// Models, tensors and ids of random numbers: speed does not depend on what a model has learned.
#pragma once

#include <cstdint>
#include <vector>

#include "models/load.h"

namespace rookery {

// Fills tensors of any device with one list of standard normal numbers, which repeats: to draw
// billions would take minutes.
class RandomFiller {
 public:
  RandomFiller();
  // scale * number + offset, in F32 or BF16.
  void fill(const TensorView& view, double scale, double offset) const;

 private:
  std::vector<float> numbers_;
};

// A model with random weights, none of them zero: zeros are multiplied faster. `matrices` is F32,
// BF16 or, on the processor, F16; throws Error for F16 on a GPU.
Model random_model(const ModelConfig& config, DType matrices, Device device, ThreadPool& pool);

// Ids below `vocabulary`, the same ones in every call.
std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary);

}  // namespace rookery
