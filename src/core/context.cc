#include "core/context.h"

#include <cstring>

namespace rookery {

MemoryKind memory_of(Device device) {
  switch (device) {
    case Device::kCuda:
      return MemoryKind::kDevice;
    case Device::kMeta:
      return MemoryKind::kPlan;
    default:
      return MemoryKind::kHost;
  }
}

void Context::use(Device on, DType activations) {
  if (on == Device::kCuda) {
    cuda::require();
    stream = cuda::stream();
  }
  device = on;
  dtype = activations;
}

void Context::copy(void* to, const void* from, int64_t bytes) const {
  if (device == Device::kMeta || bytes == 0) return;
  if (device == Device::kCuda) {
    cuda::copy_in_order(to, from, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

std::vector<Tensor> Context::layer(std::vector<Tensor> inputs, Layer body) {
  if (recording() && !gradient_checkpointing) return body(inputs);

  std::vector<Tensor> outputs;
  for (const Tensor& input : inputs) outputs.push_back(make(input.shape, input.dtype));
  Tape* const outer = std::exchange(tape, nullptr);
  const uint64_t random_before = random_stream;
  {
    const ArenaScope scope(*arena);
    const std::vector<Tensor> results = body(inputs);
    for (size_t i = 0; i < results.size(); ++i) {
      assert(results[i].shape == outputs[i].shape);
      copy(outputs[i].data, results[i].data, outputs[i].bytes());
    }
  }
  tape = outer;
  if (!recording()) return outputs;

  const auto backward = [this, inputs, outputs, body = std::move(body), random_before] {
    const ArenaScope scope(*arena);
    const size_t mark = tape->size();
    const uint64_t random_after = std::exchange(random_stream, random_before);
    const std::vector<Tensor> again = body(inputs);
    random_stream = random_after;
    for (size_t i = 0; i < again.size(); ++i) {
      if (tape->wants(again[i])) tape->move_gradient(outputs[i], again[i]);
    }
    tape->run_backward(mark);
  };
  // Even if no input needs a gradient: parameters of the layer may, which the second run finds out.
  tape->record("layer", inputs, outputs, backward);
  return outputs;
}

}  // namespace rookery
