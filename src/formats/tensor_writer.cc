#include "formats/tensor_writer.h"

#include <algorithm>
#include <cmath>
#include <memory>

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
  if (tensor.dtype == dtype) return tensor;
  return {
      tensor.name, dtype, tensor.shape, nullptr, [&tensor, dtype](void* to) {
        TensorReader reader;
        const TensorView from{const_cast<void*>(reader.read(tensor)), tensor.dtype, tensor.shape};
        convert(from, {to, dtype, tensor.shape});
        const float lost =
            dtype == DType::kF16    ? first_overflow(from, static_cast<const Float16*>(to))
            : dtype == DType::kBF16 ? first_overflow(from, static_cast<const BFloat16*>(to))
                                    : 0;
        check(lost == 0, "tensor {} holds {}, which is infinite in {}: choose another type{}",
              tensor.name, lost, name_of(dtype), dtype == DType::kF16 ? ", --dtype bf16" : "");
      }};
}

int64_t bytes_of(std::span<const StoredTensor> tensors) {
  int64_t bytes = 0;
  for (const StoredTensor& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

}  // namespace rookery
