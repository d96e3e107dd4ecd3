// Matrix products on the CPU: C = A B, or C += A B, C in float32, rows contiguous. The pool's
// threads take a panel of C each; a panel is computed by one thread, by oneDNN if it is here, else
// by our own tiles. Only this folder knows which of them serves.
#pragma once

#include <span>

#include "core/context.h"

namespace rookery::cpu {

// Up to this many rows the weights' bytes are the bound and the matrix-vector kernel serves; above,
// products.
inline constexpr int64_t kFewRows = 8;

// One operand. `transposed`: element (i, j) lies at data[j * stride + i], else at data[i * stride +
// j].
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
  bool transposed = false;
};

struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand a;  // m x k
  Operand b;  // k x n
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
};

void product(const Product& p, Context& ctx);

// Memory that products keep for themselves, for plans of memory.
int64_t product_scratch_bytes(int threads);

// Whether products of two bfloat16 operands run at more than the float32 rate here.
bool has_fast_bf16_products();

// One panel, on the calling thread. Our tiles accept any mix of F32, F16 and BF16, and compute in
// float32 in an order that depends on k only: the same row gives the same result in any batch.
void product_tiled(const Product& panel);
// Both operands F32, or both BF16.
void product_onednn(const Product& panel);

// y[t] = W x[t] (+ residual[t]) for few rows t: our matrix-vector kernel, bound by reading W once.
// W [n, k] of F32, F16 or BF16, x and y float32.
struct FewRows {
  TensorView x, weight;
  const float* residual = nullptr;
  float* y = nullptr;
};
// Several of them that do not depend on each other: the threads meet once, not once for each.
void few_rows_products(std::span<const FewRows> products, Context& ctx);

}  // namespace rookery::cpu
