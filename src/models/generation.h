// What a generation of RWKV is to the rest of the program, and the list of those that run.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/parameters.h"
#include "models/state.h"

namespace rookery {

// Options of one forward.
struct ForwardOptions {
  const State* state_in = nullptr;  // null: every sequence starts empty
  State* state_out = nullptr;       // may be the same object, except while recording
  float dropout = 0;                // training only
};

// What differs between generations.
class Network {
 public:
  virtual ~Network() = default;
  // Tokens -> the residual stream after the last block [T, C].
  virtual Tensor forward(Context& ctx, const PlacedBatch& batch,
                         const ForwardOptions& options) const = 0;
};

struct Generation {
  std::string_view name;
  std::vector<ParameterSpec> (*parameters)(const ModelConfig&);
  StateLayout (*state_layout)(const ModelConfig&);
  std::unique_ptr<Network> (*make)(const ModelConfig&, std::span<const Parameter>);
};

// Every generation this program runs. Throws Error, naming it and those that are there, if `name`
// is not.
const Generation& find_generation(std::string_view name);
bool has_generation(std::string_view name);

}  // namespace rookery
