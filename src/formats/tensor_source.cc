#include "formats/tensor_source.h"

#include <algorithm>

#include "formats/ggmf.h"
#include "formats/huggingface.h"
#include "formats/pth.h"
#include "formats/safetensors.h"

namespace rookery {
namespace {

bool has_text_at(std::span<const std::byte> bytes, size_t offset, std::string_view text) {
  return bytes.size() >= offset + text.size() &&
         std::memcmp(bytes.data() + offset, text.data(), text.size()) == 0;
}

// A header of JSON, and its length before it.
bool is_safetensors(std::span<const std::byte> bytes) {
  return bytes.size() > 8 && load_at<uint64_t>(bytes, 0) < (uint64_t{1} << 48) &&
         has_text_at(bytes, 8, "{");
}

TensorSource read_by_content(MappedFile file) {
  const std::span<const std::byte> bytes = file.bytes();
  const std::string path = file.path().string();
  if (has_text_at(bytes, 0, "PK")) return read_pth(std::move(file));
  if (has_text_at(bytes, 0, "fmgg")) return read_ggmf(std::move(file));
  if (is_safetensors(bytes)) return read_safetensors(std::move(file));

  check(!has_text_at(bytes, 0, "GGUF")) || fail(
                                               "'{}' is a GGUF file: give the .pth, .safetensors "
                                               "or rwkv.cpp .bin file of the same model",
                                               path);
  check(!has_text_at(bytes, 0, "version https://git-lfs")) ||
      fail("'{}' is a Git LFS pointer, not the model: fetch the file itself with 'git lfs pull'",
           path);
  check(!has_text_at(bytes, 0, "<")) ||
      fail("'{}' is a web page, not a model: download the file itself", path);
  check(!has_text_at(bytes, 0, "\x80") && !has_text_at(bytes, 257, "ustar")) ||
      fail(
          "'{}' is a PyTorch file from before version 1.6: load it and save it again with a newer "
          "PyTorch",
          path);
  fail(
      "'{}' starts like no checkpoint: expected a PyTorch .pth, a safetensors or an rwkv.cpp ggmf "
      "file; check that it is a model and complete",
      path);
}

}  // namespace

const void* TensorReader::read(const StoredTensor& tensor) {
  if (tensor.data != nullptr) return tensor.data;
  assert(tensor.make);
  // One byte more, so that a tensor without numbers has an address, too.
  const int64_t needed = tensor.bytes() + 1;
  if (needed > capacity_) {
    buffer_.reset();  // before the larger one is made: never two
    buffer_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(needed));
    capacity_ = needed;
  }
  tensor.make(buffer_.get());
  return buffer_.get();
}

int64_t TensorSource::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += file.size();
  return bytes;
}

const StoredTensor* TensorSource::find(std::string_view name) const {
  for (const StoredTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void TensorSource::add(std::string name, DType dtype, const Shape& shape,
                       const std::byte* numbers) {
  StoredTensor tensor{std::move(name), dtype, shape, numbers};
  if (reinterpret_cast<uintptr_t>(numbers) % static_cast<uintptr_t>(size_of(dtype)) != 0) {
    tensor.data = nullptr;
    tensor.make = [numbers, bytes = tensor.bytes()](void* to) {
      std::memcpy(to, numbers, static_cast<size_t>(bytes));
    };
  }
  tensors.push_back(std::move(tensor));
}

void TensorSource::add_blocks(std::string name, const BlockType& type, const Shape& shape,
                              const std::byte* blocks) {
  StoredTensor tensor{std::move(name), DType::kF32, shape};
  tensor.block_type = &type;
  tensor.blocks = blocks;
  tensor.make = [&type, blocks, count = shape.count()](void* to) {
    read_blocks(type, blocks, count, static_cast<float*>(to));
  };
  tensors.push_back(std::move(tensor));
}

void TensorSource::join(TensorSource shard) {
  for (StoredTensor& tensor : shard.tensors) tensors.push_back(std::move(tensor));
  for (MappedFile& file : shard.files_) files_.push_back(std::move(file));
  metadata.merge(shard.metadata);
}

TensorSource open_file(const std::filesystem::path& path) {
  TensorSource source = read_by_content(MappedFile(path));
  check(!source.tensors.empty()) ||
      fail("'{}' holds no tensors: check that it is a model", path.string());
  return source;
}

TensorSource open_checkpoint(const std::filesystem::path& path) {
  std::error_code error;
  TensorSource source =
      std::filesystem::is_directory(path, error) ? open_huggingface_folder(path) : open_file(path);
  rename_huggingface_tensors(source, path.string());
  std::vector<std::string_view> names;
  for (const StoredTensor& tensor : source.tensors) {
    check(is_printable(tensor.name)) || fail(
                                            "'{}' has a tensor whose name is not printable ASCII: "
                                            "the file is damaged, copy or download it again",
                                            path.string());
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    fail("'{}' has two tensors called {}: expected each name once; save the checkpoint again",
         path.string(), *twice);
  }
  return source;
}

bool is_printable(std::string_view name) {
  return !name.empty() &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
}

std::optional<int64_t> count_of(std::span<const int64_t> sizes) {
  constexpr int64_t kMost = int64_t{1} << 62;
  int64_t count = 1;
  for (const int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count) || count > kMost) {
      return std::nullopt;
    }
  }
  return count;
}

std::optional<Shape> shape_of(std::span<const int64_t> sizes) {
  size_t excess = sizes.size() > Shape::kMaxRank ? sizes.size() - Shape::kMaxRank : 0;
  Shape shape;
  for (const int64_t size : sizes) {
    if (excess > 0 && size == 1) {
      --excess;
    } else {
      if (shape.rank() == Shape::kMaxRank) return std::nullopt;
      shape.push_back(size);
    }
  }
  return shape;
}

}  // namespace rookery
