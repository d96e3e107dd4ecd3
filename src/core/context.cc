#include "core/context.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

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

namespace {

// Gives a variable another value until the scope ends, however it does.
template <class T>
class ScopedValue {
 public:
  ScopedValue(T& variable, T value)
      : variable_(variable), before_(std::exchange(variable, std::move(value))) {}
  ~ScopedValue() { variable_ = std::move(before_); }
  ScopedValue(const ScopedValue&) = delete;
  ScopedValue& operator=(const ScopedValue&) = delete;

 private:
  T& variable_;
  T before_;
};

std::vector<Tensor> run_layer(const Context::Layer& body, const std::vector<Tensor>& inputs,
                              const std::vector<TensorType>& outputs) {
  std::vector<Tensor> results = body(inputs);
  check(results.size() == outputs.size()) ||
      fail("a layer returned {} tensors, {} were declared", results.size(), outputs.size());
  for (size_t i = 0; i < results.size(); ++i) {
    check(results[i].type() == outputs[i]) ||
        fail("a layer returned {} as tensor {}, declared as {}", results[i].type().to_string(), i,
             outputs[i].to_string());
  }
  return results;
}

// The tensor itself among these; null if it is not.
const Tensor* find(std::span<const Tensor> tensors, const Tensor& wanted) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) {
    return t.id == wanted.id && t.data == wanted.data && t.type() == wanted.type();
  });
  return found == tensors.end() ? nullptr : &*found;
}

}  // namespace

std::vector<Tensor> Context::layer(const std::vector<Tensor>& inputs,
                                   const std::vector<TensorType>& outputs, Layer body) {
  if (recording() && !gradient_checkpointing) return run_layer(body, inputs, outputs);

  // Allocated before what the body allocates, which is released.
  std::vector<Tensor> kept;
  std::vector<Arena::Mark> marks;
  for (const TensorType& type : outputs) {
    marks.push_back(arena->mark());
    kept.push_back(make(type.shape, type.dtype));
  }
  std::vector<Tensor> made;  // those of `kept` that are not passed through
  size_t used = 0;           // memory of the outputs up to here
  const uint64_t random_before = random_stream;
  {
    const ScopedValue<Tape*> unrecorded(tape, nullptr);
    const ArenaScope scope(*arena);
    const std::vector<Tensor> results = run_layer(body, inputs, outputs);
    for (size_t i = 0; i < results.size(); ++i) {
      const std::span before(results.data(), i);
      if (const Tensor* input = find(inputs, results[i])) {
        kept[i] = *input;
      } else if (const Tensor* result = find(before, results[i])) {
        kept[i] = kept[result - before.data()];
      } else {
        copy(kept[i].data, results[i].data, kept[i].bytes());
        made.push_back(kept[i]);
        used = i + 1;
      }
    }
  }
  if (used < marks.size()) arena->release(marks[used]);

  record("layer", inputs, std::move(made),
         [this, inputs, outputs, kept, body = std::move(body), random_before] {
           const ArenaScope scope(*arena);
           const size_t mark = tape->size();
           std::vector<Tensor> again;
           {
             const ScopedValue<uint64_t> replayed(random_stream, random_before);
             again = run_layer(body, inputs, outputs);
           }
           for (size_t i = 0; i < again.size(); ++i) tape->move_gradient(kept[i], again[i]);
           tape->run_backward(mark);
         });
  return kept;
}

}  // namespace rookery
