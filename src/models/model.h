// A language model: sizes, parameters, and one forward for training, prefill, decoding and mixed
// batches. Models know no file format: a reader yields names and tensors, the parameter table asks
// for them (load.h).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "models/batch.h"
#include "models/config.h"
#include "models/generation.h"
#include "models/parameters.h"
#include "models/state.h"

namespace rookery {

class Model {
 public:
  // Fresh parameters, float32. `pool` works on large initialisations.
  static Model initialised(const ModelConfig& config, const InitOptions& options, ThreadPool& pool);
  // Without numbers and without memory: for Device::kMeta, counts and reports.
  static Model planned(const ModelConfig& config);
  // Zeros, in parameters of these types, for who fills them: a loader, a bench.
  static Model unfilled(const ModelConfig& config, const std::vector<DType>& dtypes,
                        Device device = Device::kCpu);

  const ModelConfig& config() const { return config_; }
  const StateLayout& state_layout() const { return state_layout_; }
  std::span<const Parameter> parameters() const { return parameters_; }
  const Parameter& parameter(std::string_view name) const;
  int64_t parameter_count() const;
  // Bytes of the parameters in memory.
  int64_t bytes() const;
  // The same numbers as F64 or C128, for `ref`.
  Model converted(DType dtype) const;
  // The same model in a GPU's memory, matrices as F32 or BF16, vectors in float32. One tensor at a
  // time is in memory besides. Throws Error when there is no GPU, or it has too little memory.
  Model on_gpu(DType matrices, Device gpu = Device::kCuda) const;
  // Zeros in a GPU's memory, as on_gpu() would have them.
  static Model zeros_on_gpu(const ModelConfig& config, DType matrices, Device gpu = Device::kCuda);
  // Where its parameters are.
  Device device() const { return device_; }
  // Of operators that run this model: BF16 when a GPU's matrices are BF16, else F32.
  DType activation_type() const;

  // The residual stream after the last block [T, C].
  Tensor forward(Context& ctx, const PlacedBatch& batch, const ForwardOptions& options) const;
  // The output norm: what the head reads.
  Tensor output_norm(Context& ctx, const Tensor& x) const;
  Weight head() const { return parameter("head.weight").weight(); }
  // Logits [count, V], float32 or wider, of these rows [count] of the residual stream, in this
  // order; not for recording.
  Tensor logits(Context& ctx, const Tensor& x, Mirrored<int32_t> rows, int64_t count) const;
  // For training: gives every parameter an id on the tape, and products a bfloat16 copy if `low`.
  void prepare_training(bool low);
  // Rounds the masters into the bfloat16 copies again, after the masters were written.
  void refresh_low();

 private:
  explicit Model(const ModelConfig& config);
  void allocate(const std::vector<DType>& dtypes, Device device = Device::kCpu);

  ModelConfig config_;
  Device device_ = Device::kCpu;
  StateLayout state_layout_;
  std::vector<Parameter> parameters_;
  Memory memory_, low_memory_;
  std::unique_ptr<Network> network_;
};

// The paper's forward floating-point operations per token: 2 (V C + matrices of the blocks). The
// embedding is a look-up.
double forward_flops_per_token(const Model& model);

}  // namespace rookery
