// What an operator needs besides its arguments: where to run, memory, threads, and the tape when
// training.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/cuda/device.h"
#include "core/tape.h"
#include "core/tensor.h"
#include "core/threads.h"

namespace rookery {

// Where work runs.
struct Device {
  enum Kind : uint8_t {
    kMeta,  // shapes and memory only: nothing is computed. How --dry-run knows what training will
            // need.
    kRef,   // the definitions, in double or complex<double>
    kCpu,
    kCuda,
  };
  Kind kind;
  int gpu;  // its number; of kCuda

  constexpr Device(Kind kind, int gpu = 0) : kind(kind), gpu(gpu) {}  // NOLINT: GPU 0 by itself
  friend constexpr bool operator==(const Device&, const Device&) = default;
  // On any GPU.
  friend constexpr bool operator==(const Device& a, Kind b) { return a.kind == b; }
};

// One named tensor: of a checkpoint, or of an operator's call as a checking run saves it.
struct NamedTensor {
  std::string name;
  TensorView view;
  // Writes the numbers of a tensor whose view has none, in its type, contiguous.
  std::function<void(void* to)> make = {};
};

// --device check:cpu. Each operator runs twice, on the device and by its definition in double; a
// backward is compared with the complex step along random directions. The first that differs throws
// Error.
struct Checker {
  int64_t checked = 0;  // calls
  uint64_t seed = 1;
  // A comparison that rounding makes meaningless is an error; else it is only counted.
  bool strict = false;
  // Nothing is compared. Instead a forward's definition, rounded to the tensors' types, takes the
  // place of what the kernel computed: a run in double that is rounded between operators only.
  bool substitute = false;
  // Called before the error is thrown, with the operator's inputs (float32).
  std::function<void(const std::string& op, const std::vector<NamedTensor>& inputs)> on_difference;
  struct Operator {
    double worst = 0;  // largest difference as a share of its tolerance
    double looseness =
        0;  // largest tolerance of a tensor relative to its values, both root mean squares
    int64_t compared = 0, refused = 0;  // tensors
  };
  std::map<std::string, Operator> operators;  // by name
};

// Seconds and calls by operator, for --profile.
struct Profile {
  struct Entry {
    double seconds = 0;
    int64_t calls = 0;
  };
  std::map<std::string, Entry> entries;
};

// Where a device's memory is, and the host memory that is copied to and from it.
MemoryKind memory_of(Device device);
MemoryKind host_memory_of(Device device);

struct Context {
  Device device = Device::kCpu;
  Device planned = Device::kCpu;  // kMeta: the device whose memory is counted
  Device target() const { return device == Device::kMeta ? planned : device; }
  // Type of activations: F32 on the CPU, F32 or BF16 on a GPU, F64 or C128 under `ref`.
  DType dtype = DType::kF32;
  // Type of the residual stream, of statistics and of gradients of parameters: F32, or dtype under
  // `ref`.
  DType wide_dtype() const { return size_of(dtype) < 4 ? DType::kF32 : dtype; }
  // kCuda: where its work goes, in order. Copies of a context share it. An owner declares its
  // context after the memory that the work uses, so that the work is done before the memory goes.
  std::shared_ptr<cuda::Stream> stream;
  ThreadPool* pool = nullptr;
  Arena* arena = nullptr;
  Tape* tape = nullptr;        // null: nothing is recorded
  Checker* checker = nullptr;  // null: operators run once
  Profile* profile = nullptr;
  // A sequence's numbers do not depend on its neighbours in the batch or on the cutting of its
  // prompt: WKV runs token by token and products use our own tiles.
  bool deterministic = false;
  // While recording: keep only the inputs of each layer and compute the rest again on the way back.
  bool gradient_checkpointing = false;
  // Randomness of this step (dropout): streams random_base + 0, 1, ...; random_stream is advanced
  // by every use, so that a replay repeats it. The base is read when a kernel runs: a captured
  // graph sees each step's own.
  uint64_t seed = 0;
  Mirrored<uint64_t> random_base;
  uint64_t random_stream = 0;

  Tensor make(const Shape& shape) { return make(shape, dtype); }
  Tensor make(const Shape& shape, DType type) { return {arena->make(shape, type), ++last_id}; }
  // Ids start at 1; parameters take theirs from here, too.
  int64_t last_id = 0;

  // Runs on this device from now on, on a GPU in a stream of its own. Throws Error when there is no
  // such device.
  void use(Device on, DType activations = DType::kF32);
  // Bytes between tensors of this device, in the order of its work.
  void copy(void* to, const void* from, int64_t bytes) const;
  // Returns when all work so far is done. Throws Error when a kernel failed.
  void wait() const;

  bool recording() const { return tape != nullptr; }
  int threads() const { return pool == nullptr ? 1 : pool->threads(); }

  template <class F>
  void record(const char* op, std::vector<Tensor> inputs, std::vector<Tensor> outputs, F backward) {
    if (tape == nullptr) return;
    if (std::none_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.id != 0; }))
      return;
    tape->record(op, std::move(inputs), std::move(outputs), std::move(backward));
  }

  // Many layers add to the gradient of x: it is summed in wide_dtype(). Of a layer's output, what
  // layer() returned. Nothing happens without a tape.
  void widen_gradient(const Tensor& x) {
    if (recording()) tape->set_gradient_type(x, wide_dtype());
  }

  // Runs a layer: `body` maps `inputs` to tensors of the types `outputs`; Error is thrown when they
  // are others. Without a tape, what `body` allocates is released at once and its results are
  // copied out; with gradient checkpointing, too, and the backward runs `body` a second time. A
  // result that is an input, or one of the results before it, is passed through without a copy.
  // `body` must be repeatable and may be kept: capture by value.
  using Layer = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  std::vector<Tensor> layer(const std::vector<Tensor>& inputs,
                            const std::vector<TensorType>& outputs, Layer body);
};

}  // namespace rookery
