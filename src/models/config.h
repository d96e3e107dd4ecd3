// The sizes of a model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery {

// Sizes of a model. All come from a checkpoint's shapes.
struct ModelConfig {
  std::string generation;  // "4"
  int64_t layers = 0;
  int64_t width = 0;            // C, of the embedding
  int64_t attention_width = 0;  // A
  int64_t ffn_width = 0;        // F
  int64_t vocabulary = 0;       // V
  float norm_epsilon = 1e-5f;

  bool operator==(const ModelConfig&) const = default;
};

// Sizes from a --shape or init flags, with A = C and F = 4 C. Throws Error for sizes that cannot
// be.
ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary);

}  // namespace rookery
