// What a model is made of, and what a token costs. Counts and operations are those of the paper's
// Table 2 (arXiv 2305.13048).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor_source.h"
#include "models/model.h"

namespace rookery {

struct ModelReport {
  ModelConfig config;
  int64_t parameters = 0;
  // Of each part, in the order of the parameters: embedding, time mixing, ...
  std::vector<std::pair<std::string, int64_t>> parameters_by_part;
  struct Group {
    double rate_multiplier = 1;
    bool weight_decay = false;
    int64_t parameters = 0;
  };
  std::vector<Group> optimizer_groups;
  // In memory, with matrices in this type and vectors in float32.
  std::vector<std::pair<DType, int64_t>> bytes;
  int64_t state_bytes = 0;  // of a sequence
  // Multiplications and additions. A backward pass is two more matrix products for each one of the
  // forward.
  int64_t flops_per_token = 0, flops_per_token_training = 0;
};
ModelReport report_of(const Model& model);

// Bytes of the model's weights in a file, by their type there ("f32", "q8_0", ...).
std::map<std::string, int64_t> stored_bytes(const Model& model, const TensorSource& source);

}  // namespace rookery
