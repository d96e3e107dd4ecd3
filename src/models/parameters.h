// One table of parameters per generation drives allocation, initialisation, loading, saving, the
// optimizer's groups, printing and the count of parameters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"
#include "models/config.h"
#include "ops/linear/linear.h"

namespace rookery {

// How fast and whether an optimizer moves a parameter.
struct OptimizerGroup {
  float rate_multiplier = 1;
  bool weight_decay = false;  // matrices only
};

// What a fresh parameter holds. The formulas are those of arXiv 2305.13048 (Appendix E) and of the
// released training code, which differ in the matrices and in mu_r.
enum class Init : uint8_t {
  kZero,
  kOne,
  kEmbedding,   // uniform, +-embedding_scale
  kOrthogonal,  // gain * sqrt(max(1, rows / columns)) times a random orthogonal matrix
  kNormal,      // normal, standard deviation `gain`
  kMixKey,      // (i / C)^(1 - l / L)
  kMixValue,    // ... + 0.3 l / (L - 1)
  kMixReceptance,
  kDecaySpeed,  // -5 + 8 (i / (A - 1))^(0.7 + 1.3 l / (L - 1))
  kBonus,       // log 0.3 + 0.5 (((i + 1) mod 3) - 1)
};

struct ParameterSpec {
  std::string name;  // as the public checkpoints have it
  Shape shape;       // as the public checkpoints have it; sizes of 1 may be missing in a file
  Init released = Init::kZero;  // the released code's initialisation,
  Init paper = Init::kZero;     // and the paper's
  float gain = 1;
  OptimizerGroup group;
  std::string_view part;  // "embedding", "time mixing", ... for the report of `info`

  bool is_matrix() const { return shape.rank() == 2 && shape[0] > 1 && shape[1] > 1; }
};

// One parameter of a loaded model.
struct Parameter {
  ParameterSpec spec;
  Tensor value;
  TensorView low;  // bfloat16 copy that products read, while training with float32 masters

  bool padded = false;  // a matrix of a GPU: see Weight

  operator const Tensor&() const { return value; }  // NOLINT: a vector parameter is its tensor
  Weight weight() const { return {value, low, padded}; }
  // Numbers that it, its copy and its gradient have room for.
  int64_t room() const {
    return padded ? padded_rows(value.shape[0]) * value.shape[1] : value.count();
  }
};

struct InitOptions {
  std::string scheme = "released";  // released, paper, or random: dense, for comparing programs
  uint64_t seed = 1;
  double embedding_scale = 1e-4;  // the released code takes the initial learning rate
};

// The schemes' names, for --help and errors.
inline constexpr std::string_view kInitSchemes[] = {"released", "paper", "random"};

// Fills one float32 parameter, whose name says its layer. Random numbers depend on the seed and the
// name only. Throws for an unknown scheme.
void initialise(const ParameterSpec& spec, const ModelConfig& config, const InitOptions& options,
                const TensorView& value, ThreadPool& pool);

// Layer index in a name such as "blocks.3.att.key.weight"; 0 if it has none.
int64_t layer_of(std::string_view name);

}  // namespace rookery
