// The recurrent state of sequences: what it consists of, and its memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/context.h"

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

}  // namespace rookery
