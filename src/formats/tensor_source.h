// What every checkpoint reader yields: names, types, shapes and bytes, mapped where the file allows
// it. Assumes nothing about models; names and values are those that the public training code
// stores.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"
#include "core/tensor.h"

namespace rookery {

struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;  // kF32, kF16 or kBF16
  Shape shape;
  const void* data = nullptr;  // contiguous, aligned for its type; lives as long as its source

  int64_t bytes() const { return shape.count() * size_of(dtype); }
};

// Owns the mapping and everything that had to be copied out of it. Move-only; moving keeps all
// addresses.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(std::string format_name, MappedFile mapped)
      : format(std::move(format_name)), file_(std::move(mapped)) {}

  std::string format;                 // "safetensors", "pth" or "ggmf"
  std::vector<StoredTensor> tensors;  // in the order of the file; no two of one name
  std::map<std::string, std::string> metadata;
  // What the group norm after the recurrence adds to the variance in the program that made the
  // file.
  float group_norm_epsilon = 64e-5f;

  const MappedFile& file() const { return file_; }
  // The tensor of this name, or null.
  const StoredTensor* find(std::string_view name) const;

  // For readers. Memory that lives as long as this source, aligned for every element type.
  void* allocate(int64_t bytes);
  // For readers. `data` itself, or a copy if it is not aligned for `dtype`.
  const void* aligned(const void* data, DType dtype, int64_t bytes);

 private:
  MappedFile file_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

// Opens a checkpoint file of any format that Rookery reads; its first bytes decide, its name does
// not. Throws Error for folders, unknown content, and files that are damaged, cut short or hold no
// tensor.
TensorSource open_checkpoint(const std::filesystem::path& path);

// Number of elements, or nothing if a size is negative or the product passes 2^62.
std::optional<int64_t> count_of(std::span<const int64_t> sizes);

// As a Shape: of more than four sizes, sizes of 1 are dropped from the left until four remain.
// Nothing if that is not possible.
std::optional<Shape> shape_of(std::span<const int64_t> sizes);

}  // namespace rookery
