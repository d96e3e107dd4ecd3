// The tape reverses the order of a forward pass and hands out gradient buffers. It knows no
// mathematics: each record is one operator's hand-written backward.
//
// Limits, on purpose:
// 1. A record is an operator of src/ops. No broadcasting, strided views, type promotion or graph
// passes.
// 2. Gradients are found by tensor id, not by address: the arena uses addresses again.
// 3. A context without a tape does not record: inference pays one branch per operator.
// 4. A gradient's memory is given back as soon as the operator that made the tensor has run its
// backward.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/arena.h"
#include "core/tensor.h"

namespace rookery {

class Tape {
 public:
  explicit Tape(MemoryKind kind = MemoryKind::kHost) : arena_(kind) {}

  // Called with a parameter's id when its gradient has received its last contribution of this pass.
  std::function<void(int64_t id)> on_gradient_complete;

  // The gradient of this tensor goes to memory of the caller's (a parameter's, or an input of
  // interest) and stays after the pass. `accumulate`: the first contribution of the pass is added
  // to what is there.
  void keep_gradient(const Tensor& tensor, const TensorView& memory, bool accumulate);

  // The gradient of this tensor is summed in `type`, not in the tensor's own: where many records
  // add to one bfloat16 tensor, its gradient would lose the small contributions. To be said before
  // the backward; the record that made the tensor then reads a gradient of this type.
  void set_gradient_type(const Tensor& tensor, DType type);

  void record(const char* op, std::vector<Tensor> inputs, std::vector<Tensor> outputs,
              std::function<void()> backward);

  // The gradient that arrived for y. Empty when nothing depends on y: then there is nothing to do.
  TensorView gradient(const Tensor& y) const;
  // Where to write the gradient of x, in x's type unless another was set; empty when nobody wants
  // it.
  GradView gradient_out(const Tensor& x);
  // Gives the memory of y's gradient to x, whose gradient is the same and has no other part yet:
  // nothing is written. False when that cannot be; then the caller writes to gradient_out(x).
  bool hand_on(const Tensor& y, const Tensor& x);
  // Moves what arrived for `from` to `to`, which has received nothing yet: how a checkpointed layer
  // enters its second run. To itself: nothing happens.
  void move_gradient(const Tensor& from, const Tensor& to);

  // Runs the records from the last down to number `from`, and removes them.
  void run_backward(size_t from = 0);
  size_t size() const { return records_.size(); }
  // Forgets everything of this pass; keeps the memory.
  void clear();

  // Names of the recorded operators in backward order.
  std::vector<std::string> backward_order() const;
  int64_t peak_bytes() const { return arena_.peak(); }
  void reserve(int64_t bytes) { arena_.reserve(bytes); }

 private:
  struct Slot {
    TensorView memory;
    std::optional<DType> type;  // none: the tensor's
    bool written = false, kept = false, accumulate_first = false;
    int pending = 0;  // records that still have to contribute
  };
  struct Record {
    const char* op;
    std::vector<Tensor> inputs, outputs;
    std::function<void()> backward;
  };
  TensorView take(const TensorType& type);

  Arena arena_;                                 // gradients of activations
  std::map<int64_t, std::vector<void*>> free_;  // by size in bytes: sizes repeat layer by layer
  std::unordered_map<int64_t, Slot> slots_;     // by tensor id
  std::vector<Record> records_;
};

}  // namespace rookery
