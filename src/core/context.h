// What an operator needs besides its arguments: where to run, memory, threads, and the tape when
// training.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/cuda/runtime.h"
#include "core/tape.h"
#include "core/tensor.h"
#include "core/threads.h"

namespace rookery {

enum class Device : uint8_t {
  kMeta,  // shapes and memory only: nothing is computed. How --dry-run knows what training will
          // need.
  kRef,   // the definitions, in double or complex<double>
  kCpu,
  kCuda,
};

// One named tensor: of a checkpoint, or of an operator's call as a checking run saves it.
struct NamedTensor {
  std::string name;
  TensorView view;
  // Writes the numbers of a tensor whose view has none, in its type, contiguous.
  std::function<void(void* to)> make = {};
};

// --device check:cpu. Each operator runs twice, on the device and by its definition in double; a
// backward is compared with the complex step along a random direction. The first that differs
// throws Error.
struct Checker {
  int64_t checked = 0;
  uint64_t seed = 1;
  // Called before the error is thrown, with the operator's inputs (float32).
  std::function<void(const std::string& op, const std::vector<NamedTensor>& inputs)> on_difference;
  // Worst error relative to the tolerance, by operator.
  std::map<std::string, double> worst;
};

// Seconds and calls by operator, for --profile.
struct Profile {
  struct Entry {
    double seconds = 0;
    int64_t calls = 0;
  };
  std::map<std::string, Entry> entries;
  Device device = Device::kCpu;
};

// Where a device's memory is.
MemoryKind memory_of(Device device);

struct Context {
  Device device = Device::kCpu;
  Device planned = Device::kCpu;  // kMeta: the device whose memory is counted
  Device target() const { return device == Device::kMeta ? planned : device; }
  // Type of activations: F32 on the CPU, F32 or BF16 on a GPU, F64 or C128 under `ref`.
  DType dtype = DType::kF32;
  // Type of the residual stream, of statistics and of gradients of parameters: F32, or dtype under
  // `ref`.
  DType wide_dtype() const { return size_of(dtype) < 4 ? DType::kF32 : dtype; }
  CUstream_st* stream = nullptr;  // kCuda: where kernels go, in order
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

  // Runs on this device from now on. Throws Error when there is no such device.
  void use(Device on, DType activations = DType::kF32);
  // Bytes between tensors of this device, in the order of its work.
  void copy(void* to, const void* from, int64_t bytes) const;

  bool recording() const { return tape != nullptr; }
  int threads() const { return pool == nullptr ? 1 : pool->threads(); }

  template <class F>
  void record(const char* op, std::vector<Tensor> inputs, std::vector<Tensor> outputs, F backward) {
    if (tape == nullptr) return;
    if (std::none_of(inputs.begin(), inputs.end(),
                     [this](const Tensor& t) { return tape->wants(t); })) {
      return tape->mark_constant(outputs);
    }
    tape->record(op, std::move(inputs), std::move(outputs), std::move(backward));
  }

  // Runs a layer: `body` maps `inputs` to as many outputs of the same shapes. Without a tape, what
  // it allocates is released at once and the outputs are copied out; with gradient checkpointing,
  // too, and the backward runs `body` a second time. `body` must be repeatable and may be kept:
  // capture by value.
  using Layer = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  std::vector<Tensor> layer(std::vector<Tensor> inputs, Layer body);
};

}  // namespace rookery
