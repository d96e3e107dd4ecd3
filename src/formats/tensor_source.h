// What every checkpoint reader yields: names, types, shapes, and where the numbers are. They stay
// in the mapped file where it holds them as they are wanted; the rest is made when it is read, one
// tensor at a time. Assumes nothing about models; names and values are those that the public
// training code stores.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quantization/blocks.h"
#include "core/dtype.h"
#include "io/file.h"
#include "core/norm_epsilons.h"
#include "core/tensor.h"

namespace rookery {

struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;  // kF32, kF16 or kBF16
  Shape shape;
  const void* data = nullptr;  // contiguous, aligned for its type; null: `make` gives the numbers
  // Writes bytes() bytes, contiguous, to a place that is aligned for any type.
  std::function<void(void* to)> make = {};
  // The file holds the numbers as blocks of this type, or shall: dtype is kF32 then, and `blocks`
  // is where they stand (null: they must be made). Null for plain numbers.
  const BlockType* block_type = nullptr;
  const std::byte* blocks = nullptr;
  // All live as long as the source that they came from.

  int64_t bytes() const { return shape.count() * size_of(dtype); }
  // In a file of the format that the tensor is described for.
  int64_t stored_bytes() const {
    return block_type == nullptr ? bytes() : bytes_in(*block_type, shape.count());
  }
  // "f32", "q8_0", ...: of the numbers in the file.
  std::string_view stored_type() const {
    return block_type == nullptr ? name_of(dtype) : block_type->flag;
  }
};

// Reads tensors one at a time, with one buffer for those that must be made: it grows to the largest
// of them.
class TensorReader {
 public:
  // The tensor's numbers, contiguous and aligned. They are good until the next read().
  const void* read(const StoredTensor& tensor);

 private:
  std::unique_ptr<std::byte[]> buffer_;
  int64_t capacity_ = 0;
};

// A checkpoint's tensors, and the mapped files that they lie in. Move-only; moving keeps all
// addresses.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(std::string format_name, MappedFile mapped) : format(std::move(format_name)) {
    files_.push_back(std::move(mapped));
  }

  std::string format;                 // "safetensors", "pth", "ggmf" or "huggingface"
  std::vector<StoredTensor> tensors;  // in the order of the file; no two of one name
  std::map<std::string, std::string> metadata;
  NormEpsilons epsilons;  // of the program that made the file

  // One, or the shards of a set.
  std::span<const MappedFile> files() const { return files_; }
  const MappedFile& file() const { return files_.front(); }
  int64_t file_bytes() const;
  // The tensor of this name, or null.
  const StoredTensor* find(std::string_view name) const;

  // For readers: adds a tensor whose contiguous numbers stand at `numbers` in a mapped file. If
  // they are not aligned there, they are copied when they are read.
  void add(std::string name, DType dtype, const Shape& shape, const std::byte* numbers);
  // For readers: adds a tensor whose numbers stand as blocks at `blocks` in a mapped file, and
  // become f32 when they are read. Its count is a multiple of kBlock.
  void add_blocks(std::string name, const BlockType& type, const Shape& shape,
                  const std::byte* blocks);
  // For readers: appends the tensors and files of a shard, and its metadata where there is none of
  // that key.
  void join(TensorSource shard);

 private:
  std::vector<MappedFile> files_;
};

// Opens a checkpoint of any format that Rookery reads: a file, whose first bytes decide and not its
// name, or a Hugging Face folder (huggingface.h). Throws Error for other folders, unknown content,
// and files that are damaged, cut short or hold no tensor.
TensorSource open_checkpoint(const std::filesystem::path& path);

// One file of any format, with the names that stand in it.
TensorSource open_file(const std::filesystem::path& path);

// Printable ASCII without spaces, so that names can be put into messages, JSON and other files as
// they are.
bool is_printable(std::string_view name);

// Number of elements, or nothing if a size is negative or the product passes 2^62.
std::optional<int64_t> count_of(std::span<const int64_t> sizes);

// As a Shape: of more than four sizes, sizes of 1 are dropped from the left until four remain.
// Nothing if that is not possible.
std::optional<Shape> shape_of(std::span<const int64_t> sizes);

}  // namespace rookery
