#include "models/state.h"

#include <algorithm>
#include <complex>
#include <utility>

namespace rookery {

int64_t StateLayout::add(std::string name, int64_t width, double empty) {
  items.push_back({std::move(name), width, empty, slot_size});
  slot_size += width;
  return static_cast<int64_t>(items.size()) - 1;
}

State::State(const StateLayout& layout, int64_t slots, DType dtype, Device device)
    : layout_(layout),
      slots_(slots),
      dtype_(dtype),
      memory_(slots * layout.slot_size * size_of(dtype), memory_of(device)) {
  for (int64_t s = 0; s < slots; ++s) clear(s);
}

State& State::operator=(const State& other) {
  if (this == &other) return *this;
  layout_ = other.layout_;
  slots_ = other.slots_;
  dtype_ = other.dtype_;
  if (memory_.kind() != other.memory_.kind() || memory_.bytes() != other.memory_.bytes()) {
    memory_ = Memory(slots_ * slot_bytes(), other.memory_.kind());
  }
  copy_bytes(memory_.data(), other.memory_.data(), slots_ * slot_bytes());
  return *this;
}

void State::copy_from(const State& other) {
  assert(slots_ * slot_bytes() == other.slots_ * other.slot_bytes());
  copy_bytes(memory_.data(), other.memory_.data(), slots_ * slot_bytes());
}

State State::on_host() const {
  State result(layout_, slots_, dtype_);
  result.copy_from(*this);
  return result;
}

StateView State::view(int64_t index) const {
  const StateItem& item = layout_.items[index];
  return {static_cast<char*>(memory_.data()) + item.offset * size_of(dtype_), dtype_, slots_,
          item.width, layout_.slot_size};
}

void State::clear(int64_t slot) {
  assert(slot >= 0 && slot < slots_);
  if (memory_.kind() == MemoryKind::kDevice) {
    copy_bytes(this->slot(slot).data, State(layout_, 1, dtype_).slot(0).data, slot_bytes());
    return;
  }
  for (size_t i = 0; i < layout_.items.size(); ++i) {
    const StateItem& item = layout_.items[i];
    const StateView items = view(static_cast<int64_t>(i));
    switch (dtype_) {
      case DType::kF64:
        std::fill_n(items.slot<double>(slot), item.width, item.empty);
        break;
      case DType::kC128:
        std::fill_n(items.slot<std::complex<double>>(slot), item.width, item.empty);
        break;
      default:
        std::fill_n(items.slot<float>(slot), item.width, static_cast<float>(item.empty));
    }
  }
}

TensorView State::slot(int64_t slot) const {
  assert(slot >= 0 && slot < slots_);
  return {static_cast<char*>(memory_.data()) + slot * slot_bytes(), dtype_, {layout_.slot_size}};
}

void State::copy_slot(int64_t from, int64_t to) {
  if (from != to) copy_bytes(slot(to).data, slot(from).data, slot_bytes());
}

}  // namespace rookery
