// What a generation of RWKV is to the rest of the program, and the list of those that run.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

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

  // Where an item of the state is read and written; empty views where there is no state.
  StateView in(const StateItem& item) const {
    return state_in ? state_in->view(item) : StateView();
  }
  StateView out(const StateItem& item) const {
    return state_out ? state_out->view(item) : StateView();
  }
};

// What differs between generations: the parameters and the state, listed once each, and the
// computation up to the last block. It holds its parameters; a Model gives them memory and numbers.
class Network {
 public:
  virtual ~Network() = default;
  // Names every parameter once, in checkpoint order.
  virtual void visit_parameters(ParameterTable& table) = 0;
  // Names every item of the recurrent state once.
  virtual void visit_state(StateLayout& layout) = 0;
  // Tokens -> the residual stream after the last block [T, C].
  virtual Tensor forward(Context& ctx, const PlacedBatch& batch,
                         const ForwardOptions& options) const = 0;

  // What Model reads after the last block.
  Norm output_norm;
  Parameter head;
};

// The shapes of a checkpoint's tensors.
class StoredShapes {
 public:
  void add(std::string_view name, const Shape& shape) { shapes_.emplace(name, shape); }
  // Size number `axis` of a tensor. Throws Error if the tensor is not there, or has fewer sizes.
  int64_t size(const char* name, int axis) const;

 private:
  std::unordered_map<std::string, Shape> shapes_;
};

struct Generation {
  std::string_view name;
  // Completes the sizes of a model of which layers, width and vocabulary are known: as the public
  // training code chooses them, and as a checkpoint has them.
  void (*choose_sizes)(ModelConfig& config);
  void (*read_sizes)(const StoredShapes& shapes, ModelConfig& config);
  std::unique_ptr<Network> (*make)(const ModelConfig& config);
};

// Every generation this program runs. Throws Error, naming it and those that are there, if `name`
// is not.
const Generation& find_generation(std::string_view name);
bool has_generation(std::string_view name);

}  // namespace rookery
