#include "core/tape.h"

#include <utility>

namespace rookery {

void Tape::keep_gradient(const Tensor& tensor, const TensorView& memory, bool accumulate) {
  assert(tensor.id != 0);
  Slot& slot = slots_[tensor.id];
  slot.memory = memory;
  slot.kept = true;
  slot.accumulate_first = accumulate;
}

void Tape::set_gradient_type(const Tensor& tensor, DType type) {
  if (tensor.id == 0) return;
  Slot& slot = slots_[tensor.id];
  assert(!slot.memory);
  slot.type = type;
}

void Tape::record(const char* op, std::vector<Tensor> inputs, std::vector<Tensor> outputs,
                  std::function<void()> backward) {
  for (const Tensor& input : inputs) {
    if (input.id != 0) ++slots_[input.id].pending;
  }
  records_.push_back({op, std::move(inputs), std::move(outputs), std::move(backward)});
}

TensorView Tape::gradient(const Tensor& y) const {
  const auto found = slots_.find(y.id);
  if (found == slots_.end() || !found->second.written) return {};
  return found->second.memory;
}

TensorView Tape::take(const TensorType& type) {
  const int64_t bytes = type.shape.count() * size_of(type.dtype);
  std::vector<void*>& free = free_[bytes];
  if (free.empty()) return {arena_.allocate(bytes), type.dtype, type.shape};
  void* data = free.back();
  free.pop_back();
  return {data, type.dtype, type.shape};
}

GradView Tape::gradient_out(const Tensor& x) {
  if (x.id == 0) return {};
  Slot& slot = slots_[x.id];
  if (!slot.memory) slot.memory = take({x.shape, slot.type.value_or(x.dtype)});
  const bool first = !std::exchange(slot.written, true);
  return {slot.memory, first ? slot.accumulate_first : true};
}

bool Tape::hand_on(const Tensor& y, const Tensor& x) {
  if (x.id == 0) return false;
  Slot &from = slots_[y.id], &to = slots_[x.id];
  if (from.kept || !from.written || to.memory) return false;
  if (from.memory.dtype != to.type.value_or(x.dtype)) return false;
  to.memory = from.memory;
  to.written = true;
  from.memory = {};
  from.written = false;
  return true;
}

void Tape::move_gradient(const Tensor& from, const Tensor& to) {
  if (from.id == to.id || !gradient(from)) return;
  Slot &source = slots_[from.id], &target = slots_[to.id];
  assert(!target.written && !target.kept);
  target.memory = std::exchange(source.memory, {});
  target.written = std::exchange(source.written, false);
}

void Tape::run_backward(size_t from) {
  while (records_.size() > from) {
    const Record record = std::move(records_.back());
    records_.pop_back();
    record.backward();
    for (const Tensor& output : record.outputs) {
      const auto found = slots_.find(output.id);
      if (found == slots_.end() || found->second.kept) continue;
      if (found->second.memory) {
        free_[found->second.memory.bytes()].push_back(found->second.memory.data);
      }
      slots_.erase(found);
    }
    for (const Tensor& input : record.inputs) {
      if (input.id == 0) continue;
      const Slot& slot = slots_[input.id];
      if (--slots_[input.id].pending == 0 && slot.kept && on_gradient_complete) {
        on_gradient_complete(input.id);
      }
    }
  }
}

void Tape::clear() {
  records_.clear();
  slots_.clear();
  free_.clear();
  arena_.reset();
}

std::vector<std::string> Tape::backward_order() const {
  std::vector<std::string> names;
  for (auto record = records_.rbegin(); record != records_.rend(); ++record) {
    names.emplace_back(record->op);
  }
  return names;
}

}  // namespace rookery
