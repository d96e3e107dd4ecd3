// Views of memory with a type and a shape. A view owns nothing; the arena, a parameter set or a
// state does.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"

namespace rookery {

// Up to four sizes, slowest first, always contiguous.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) {
    assert(sizes.size() <= kMaxRank);
    for (const int64_t size : sizes) sizes_[rank_++] = size;
  }
  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return sizes_[axis]; }
  int64_t& operator[](int axis) { return sizes_[axis]; }
  void push_back(int64_t size) {
    assert(rank_ < kMaxRank);
    sizes_[rank_++] = size;
  }
  // Number of elements; 1 for rank 0.
  int64_t count() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank_; ++axis) product *= sizes_[axis];
    return product;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int axis = 0; axis < rank_; ++axis) {
      if (sizes_[axis] != other.sizes_[axis]) return false;
    }
    return true;
  }
  // "[2, 3]"
  std::string to_string() const;

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

// What a tensor is, apart from its numbers.
struct TensorType {
  Shape shape;
  DType dtype = DType::kF32;

  bool operator==(const TensorType&) const = default;
  // "f32 [2, 3]"
  std::string to_string() const;
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  TensorType type() const { return {shape, dtype}; }
  int64_t count() const { return shape.count(); }
  int64_t bytes() const { return count() * size_of(dtype); }
  int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : count() / rows(); }
  explicit operator bool() const { return data != nullptr; }

  template <class T>
  T* as() const {
    assert(data == nullptr || dtype == dtype_of<T>());
    return static_cast<T*>(data);
  }
};

// A value in a computation. The id names its gradient on the tape; 0 means that nobody wants one.
struct Tensor : TensorView {
  int64_t id = 0;
};

// Where a backward writes one gradient. Empty: not wanted. `accumulate`: add to what is there (a
// later writer); otherwise overwrite (the first). Every backward honours both. The type may be
// wider than the tensor's (Context::widen_gradient): an operator that cannot write it throws.
struct GradView : TensorView {
  bool accumulate = false;
};

// One item of the recurrent state for all slots: slot s starts at element s * stride and holds
// `width` elements. A slot keeps all items of all layers together, so that copying a state is one
// memcpy.
struct StateView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t slots = 0, width = 0, stride = 0;

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* slot(int64_t s) const {
    assert(s >= 0 && s < slots && dtype == dtype_of<T>());
    return static_cast<T*>(data) + s * stride;
  }
};

// Small data that the host writes and kernels read: ids, offsets, the numbers of a step. `device`
// is its copy on the GPU, null when no GPU is in use.
template <class T>
struct Mirrored {
  const T* host = nullptr;
  const T* device = nullptr;

  Mirrored() = default;
  Mirrored(const T* host, const T* device = nullptr) : host(host), device(device) {}  // NOLINT
  const T& operator[](int64_t i) const { return host[i]; }
  const T* operator->() const { return host; }
  const T& operator*() const { return *host; }
  explicit operator bool() const { return host != nullptr; }
};

// Sequences laid end to end: sequence s owns rows offsets[s] .. offsets[s + 1] - 1. There is no
// padding. It reads its state from slot_in[s] and leaves it in slot_out[s]; -1 is the empty state /
// nowhere.
// What one sequence writes, no other of the same call may read or write.
struct Sequences {
  int64_t count = 0;
  Mirrored<int64_t> offsets;   // [count + 1], offsets[0] == 0
  Mirrored<int64_t> slot_in;   // [count]
  Mirrored<int64_t> slot_out;  // [count]
  // [rows] the sequence of each row, on the GPU only. Kernels find borders with it, so that a
  // captured graph serves any number of sequences.
  const int32_t* sequence_of_row = nullptr;
  // The rows are windows of so many, and no sequence crosses their borders: then launches depend on
  // this and not on the cut, which differs from one training step to the next. 0: there are none.
  int64_t window = 0;

  int64_t rows() const { return count == 0 ? 0 : offsets[count]; }
};

}  // namespace rookery
