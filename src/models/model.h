// A language model: sizes, parameters, and one forward for training, prefill, decoding and mixed
// batches. Models know no file format: a reader yields names and tensors, the parameter table asks
// for them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "core/mirror.h"
#include "models/parameters.h"
#include "ops/linear/linear.h"

namespace rookery {

// One recurrent quantity of one layer: where it lies in a slot, and what it holds before the first
// token.
struct StateItem {
  std::string name;  // "blocks.0.att.a"
  int64_t width = 0;
  double empty = 0;
  int64_t offset = 0;  // elements from the start of the slot
};

struct StateLayout {
  std::vector<StateItem> items;
  int64_t slot_size = 0;  // elements

  // Appends an item and returns its index.
  int64_t add(std::string name, int64_t width, double empty);
};

// The recurrent states of `slots` sequences, slot after slot. Copyable: a state is a value.
class State {
 public:
  State() = default;
  // All slots empty, in this device's memory.
  State(const StateLayout& layout, int64_t slots, DType dtype = DType::kF32,
        Device device = Device::kCpu);
  State(const State& other) { *this = other; }
  // The copy is where the original is.
  State& operator=(const State& other);
  // Takes over the numbers of a state of the same layout, wherever the two are.
  void copy_from(const State& other);
  // The same state in the processor's memory.
  State on_host() const;
  State(State&&) = default;
  State& operator=(State&&) = default;

  int64_t slots() const { return slots_; }
  int64_t slot_bytes() const { return layout_.slot_size * size_of(dtype_); }
  const StateLayout& layout() const { return layout_; }
  // Item `index` of all slots.
  StateView view(int64_t index) const;
  // Puts a slot back to before the first token.
  void clear(int64_t slot);
  void copy_slot(int64_t from, int64_t to);
  // One slot's elements, all items.
  TensorView slot(int64_t slot) const;

 private:
  StateLayout layout_;
  int64_t slots_ = 0;
  DType dtype_ = DType::kF32;
  Memory memory_;
};

// Sequences laid end to end, with the slots their states come from and go to.
struct Batch {
  std::vector<int32_t> tokens;             // [T]
  std::vector<int32_t> targets;            // [T] in training, else empty
  std::vector<int64_t> offsets{0};         // [S + 1]
  std::vector<int64_t> slot_in, slot_out;  // [S]; -1: the empty state / nowhere
  int64_t window = 0;                      // see Sequences

  void add(std::span<const int32_t> sequence, int64_t in, int64_t out);
  void clear();
  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  int64_t count() const { return static_cast<int64_t>(slot_in.size()); }
};

// A batch where a device's operators read it. One object serves batch after batch: batches of as
// many rows, and of no more sequences than before, are at the same addresses, which is what a
// captured graph needs.
class PlacedBatch {
 public:
  PlacedBatch() = default;
  // stage() and send() at once.
  PlacedBatch(const Batch& batch, int64_t vocabulary, const Context& ctx) {
    stage(batch, vocabulary, ctx);
    send(ctx);
  }
  // Copies the batch for this context's device, once the context's work has read the batch before.
  // Throws Error for an id outside the vocabulary, or a target above it. Returns whether the
  // addresses changed.
  bool stage(const Batch& batch, int64_t vocabulary, const Context& ctx);
  // Brings the GPU's copy up to date, in the order of the context's work.
  void send(const Context& ctx) const;

  int64_t rows() const { return rows_; }
  Mirrored<int32_t> tokens() const { return tokens_; }
  Mirrored<int32_t> targets() const { return targets_; }
  const Sequences& sequences() const { return sequences_; }

 private:
  Mirror mirror_;
  Device device_ = Device::kCpu;
  int64_t rows_ = 0, bytes_ = 0, capacity_ = 0;
  Mirrored<int32_t> tokens_, targets_;
  Sequences sequences_;
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

// Sizes from a --shape or init flags, with A = C and F = 4 C. Throws Error for sizes that cannot
// be.
ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary);

// How matrices are kept in memory; vectors are float32.
enum class MatrixType : uint8_t { kAsStored, kF32, kF16, kBF16 };
MatrixType matrix_type(DType dtype);

class Model {
 public:
  // Fresh parameters, float32. `pool` works on large initialisations.
  static Model initialised(const ModelConfig& config, const InitOptions& options, ThreadPool& pool);
  // Without numbers and without memory: for Device::kMeta, counts and reports.
  static Model planned(const ModelConfig& config);
  // As planned(), with the sizes of these tensors. Throws Error naming what is missing, of another
  // shape, unknown, or of a generation that is not supported.
  static Model planned_for(std::span<const NamedTensor> tensors, float norm_epsilon = 1e-5f);
  // From named tensors of a checkpoint, one after another: of those that must be made no more than
  // one is in memory besides the model. Throws Error as planned_for() does.
  static Model from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                            float norm_epsilon = 1e-5f);

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
  // All zeros, in a GPU's memory, for who fills them: a bench.
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
  // Logits [R, V], float32 or wider, of these rows of the residual stream, in this order; not for
  // recording.
  Tensor logits(Context& ctx, const Tensor& x, std::span<const int64_t> rows) const;
  // For training: gives every parameter an id on the tape, and products a bfloat16 copy if `low`.
  void prepare_training(bool low);
  // Rounds the masters into the bfloat16 copies again, after the masters were written.
  void refresh_low();

 private:
  explicit Model(const ModelConfig& config);
  void allocate(const std::vector<DType>& dtypes, Device device = Device::kCpu);
  void bind();

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
