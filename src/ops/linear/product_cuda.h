// Matrix products on the GPU through cuBLASLt, which is opened when the first product is asked for:
// a program that never uses the GPU does not need the library.
#pragma once

#include <cstdint>

#include "core/context.h"

namespace rookery::cuda {

// A matrix in rows of `stride` elements, F32 or BF16; with `transposed` the product reads its
// transpose.
struct DeviceMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
  bool transposed = false;
};

// c [m, n] = a [m, k] b [k, n] + add. Added up in float32. a and b are of one type; c and add are
// F32, or of that type. One shape gives the same bits on one type of GPU every time.
struct DeviceProduct {
  int64_t m = 0, n = 0, k = 0;
  DeviceMatrix a, b;
  void* c = nullptr;
  DType c_type = DType::kF32;
  int64_t c_stride = 0;
  const void* add = nullptr;  // [m, n] as c, may be c itself; null: nothing is added
};
// Throws Error when the library is missing or cannot do this product.
void product(const DeviceProduct& p, Context& ctx);

}  // namespace rookery::cuda
