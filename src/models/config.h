// The sizes of a model, and what else decides its computation besides its parameters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/norm_epsilons.h"

namespace rookery {

struct ModelConfig {
  std::string generation;  // "4"
  int64_t layers = 0;
  int64_t width = 0;            // C, of the embedding
  int64_t attention_width = 0;  // A
  int64_t ffn_width = 0;        // F
  int64_t vocabulary = 0;       // V
  NormEpsilons epsilons;

  // Calls visitor(name, member) for every member: what hashes, saved states and reports go over.
  // Sizes are int64_t, and no other member is; those that a generation does not have are 0.
  template <class Visitor>
  void visit(Visitor&& visitor) const {
    visitor("generation", generation);
    visitor("layers", layers);
    visitor("width", width);
    visitor("attention_width", attention_width);
    visitor("ffn_width", ffn_width);
    visitor("vocabulary", vocabulary);
    visitor("layer_norm_epsilon", epsilons.layer_norm);
    visitor("group_norm_epsilon", epsilons.group_norm);
  }
  bool operator==(const ModelConfig&) const = default;
};

// The sizes that this generation has, by name.
std::vector<std::pair<std::string, int64_t>> sizes_of(const ModelConfig& config);

// Sizes from a --shape or init flags; the rest as the generation's public training code chooses
// them. Throws Error for sizes that cannot be.
ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary);

}  // namespace rookery
