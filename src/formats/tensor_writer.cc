#include "formats/tensor_writer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/convert.h"

namespace rookery {
namespace {

constexpr int64_t kPiece = int64_t{8} << 20;

// A finite number of `from` that is infinite in `to`, or 0.
template <class To>
float first_overflow(const TensorView& from, const To* to) {
  for (int64_t i = 0; i < from.count(); ++i) {
    if (!std::isinf(to_float(to[i]))) continue;
    const float before = from.dtype == DType::kF32   ? static_cast<const float*>(from.data)[i]
                         : from.dtype == DType::kF16 ? to_float(from.as<Float16>()[i])
                                                     : to_float(from.as<BFloat16>()[i]);
    if (std::isfinite(before)) return before;
  }
  return 0;
}

}  // namespace

void write_numbers(AtomicFile& file, const void* data, int64_t bytes,
                   const WriteProgress& progress) {
  const auto* next = static_cast<const std::byte*>(data);
  for (int64_t done = 0; done < bytes;) {
    const int64_t piece = std::min(kPiece, bytes - done);
    file.write(next + done, piece);
    done += piece;
    if (progress) progress(piece);
  }
}

StoredTensor in_type(const StoredTensor& tensor, DType dtype) {
  if (tensor.dtype == dtype) {
    StoredTensor plain = tensor;
    plain.block_type = nullptr;
    plain.blocks = nullptr;
    return plain;
  }
  return {
      tensor.name, dtype, tensor.shape, nullptr, [&tensor, dtype](void* to) {
        TensorReader reader;
        const TensorView from{const_cast<void*>(reader.read(tensor)), tensor.dtype, tensor.shape};
        convert(from, {to, dtype, tensor.shape});
        const float lost =
            dtype == DType::kF16    ? first_overflow(from, static_cast<const Float16*>(to))
            : dtype == DType::kBF16 ? first_overflow(from, static_cast<const BFloat16*>(to))
                                    : 0;
        check(lost == 0) ||
            fail("tensor {} holds {}, which is infinite in {}: choose another type{}", tensor.name,
                 lost, name_of(dtype), dtype == DType::kF16 ? ", --dtype bf16" : "");
      }};
}

std::optional<StoredTensor> in_blocks(const StoredTensor& tensor) {
  if (tensor.block_type == &kQ8_0) return tensor;
  const Shape& shape = tensor.shape;
  const bool matrix = shape.rank() == 2 && shape[0] > 1 && shape[1] > 1;
  if (!matrix || shape[1] % kBlock != 0 || !tensor.name.ends_with(".weight")) return std::nullopt;
  StoredTensor result = in_type(tensor, DType::kF32);
  result.block_type = &kQ8_0;
  return result;
}

void write_blocks_of(AtomicFile& file, const StoredTensor& tensor, TensorReader& reader,
                     const WriteProgress& progress) {
  const BlockType& type = *tensor.block_type;
  if (tensor.blocks != nullptr) {
    return write_numbers(file, tensor.blocks, tensor.stored_bytes(), progress);
  }
  const auto* numbers = static_cast<const float*>(reader.read(tensor));
  constexpr int64_t kNumbers = kPiece / int64_t{sizeof(float)};
  std::vector<std::byte> blocks;
  for (int64_t done = 0; done < tensor.shape.count(); done += kNumbers) {
    const int64_t count = std::min(kNumbers, tensor.shape.count() - done);
    blocks.resize(static_cast<size_t>(bytes_in(type, count)));
    try {
      write_blocks(type, numbers + done, count, blocks.data());
    } catch (const Error& error) {
      fail("tensor {} cannot be stored as {}: {}; choose another --dtype", tensor.name, type.flag,
           error.what());
    }
    write_numbers(file, blocks.data(), bytes_in(type, count), progress);
  }
}

int64_t bytes_of(std::span<const StoredTensor> tensors) {
  int64_t bytes = 0;
  for (const StoredTensor& tensor : tensors) bytes += tensor.stored_bytes();
  return bytes;
}

}  // namespace rookery
