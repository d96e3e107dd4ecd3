#include "core/context.h"

#include <cstring>

namespace rookery {

MemoryKind memory_of(Device device) {
  switch (device.kind) {
    case Device::kCuda:
      return {MemoryKind::kDevice, device.gpu};
    case Device::kMeta:
      return MemoryKind::kPlan;
    default:
      return MemoryKind::kHost;
  }
}

MemoryKind host_memory_of(Device device) {
  if (device == Device::kCuda) return {MemoryKind::kPinned, device.gpu};
  return MemoryKind::kHost;
}

void Context::use(Device on, DType activations) {
  if (on != device || stream == nullptr) {
    stream =
        on == Device::kCuda ? std::make_shared<cuda::Stream>(cuda::Device::get(on.gpu)) : nullptr;
  }
  device = on;
  dtype = activations;
}

void Context::copy(void* to, const void* from, int64_t bytes) const {
  if (device == Device::kMeta || bytes == 0) return;
  if (device == Device::kCuda) {
    stream->copy(to, from, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

void Context::wait() const {
  if (stream != nullptr) stream->wait();
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

  record("layer", inputs, outputs, [this, inputs, outputs, body = std::move(body), random_before] {
    const ArenaScope scope(*arena);
    const size_t mark = tape->size();
    const uint64_t random_after = std::exchange(random_stream, random_before);
    const std::vector<Tensor> again = body(inputs);
    random_stream = random_after;
    for (size_t i = 0; i < again.size(); ++i) tape->move_gradient(outputs[i], again[i]);
    tape->run_backward(mark);
  });
  return outputs;
}

}  // namespace rookery
