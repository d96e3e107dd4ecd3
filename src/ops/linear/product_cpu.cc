// Our own matrix products: tiles for many rows (when oneDNN is absent, cannot take the types, or
// may not be used because results must not depend on the batch), and the matrix-vector kernel for
// few rows.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear/product_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "hwy/cache_control.h"
#include "ops/linear/product_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

using cpu::Operand;
using cpu::Product;

// ------------------------------------------------------------------------------------------ tiles

// A tile of C stays in registers: kTileRows x 2 vectors. 24 accumulators of AVX-512's 32 registers,
// 12 of AVX2's 16.
#if HWY_TARGET == HWY_AVX3
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
// Depth of a packed block: a row panel (12 x 256 floats) fits the first-level cache, and the panel
// of B (256 x 512 floats) the second.
constexpr int64_t kDepth = 256, kPanelColumns = 512, kPanelRows = 96;

HWY_INLINE float element_of(const Operand& x, int64_t i, int64_t j) {
  const int64_t at = x.transposed ? j * x.stride + i : i * x.stride + j;
  switch (x.dtype) {
    case DType::kF16:
      return to_float(static_cast<const Float16*>(x.data)[at]);
    case DType::kBF16:
      return to_float(static_cast<const BFloat16*>(x.data)[at]);
    default:
      return static_cast<const float*>(x.data)[at];
  }
}

// Packs `count` lines of `depth` elements so that the lines lie side by side, zero-filled to a
// multiple of `tile`: packed[(line / tile), k, line % tile]. `at(line, k)` reads one element.
template <class At>
HWY_INLINE void pack(int64_t count, int64_t depth, int64_t tile, float* HWY_RESTRICT packed,
                     const At& at) {
  for (int64_t first = 0; first < count; first += tile) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < tile; ++i) {
        *packed++ = first + i < count ? at(first + i, k) : 0.0f;
      }
    }
  }
}

HWY_INLINE void pack_operand(const Operand& x, bool by_column, int64_t first, int64_t count,
                             int64_t depth_first, int64_t depth, int64_t tile, float* packed) {
  // float32, the common case, without a switch per element.
  if (x.dtype == DType::kF32) {
    const float* data = static_cast<const float*>(x.data);
    const int64_t line_step = (by_column != x.transposed) ? 1 : x.stride;
    const int64_t depth_step = (by_column != x.transposed) ? x.stride : 1;
    pack(count, depth, tile, packed, [&](int64_t line, int64_t k) {
      return data[(first + line) * line_step + (depth_first + k) * depth_step];
    });
  } else {
    pack(count, depth, tile, packed, [&](int64_t line, int64_t k) {
      return by_column ? element_of(x, depth_first + k, first + line)
                       : element_of(x, first + line, depth_first + k);
    });
  }
}

// C[rows x cols] (+)= packed row panel x packed column panel.
HWY_INLINE void multiply_tile(int64_t depth, const float* HWY_RESTRICT a,
                              const float* HWY_RESTRICT b, float* HWY_RESTRICT c, int64_t stride,
                              int64_t rows, int64_t cols, bool accumulate) {
  const FloatTag d;
  const int64_t lanes = float_lanes();
  FloatVector left[kTileRows], right[kTileRows];
  for (int r = 0; r < kTileRows; ++r) left[r] = right[r] = hn::Zero(d);
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = hn::LoadU(d, b + k * 2 * lanes), b1 = hn::LoadU(d, b + k * 2 * lanes + lanes);
    HWY_UNROLL(kTileRows)
    for (int r = 0; r < kTileRows; ++r) {
      const auto ar = hn::Set(d, a[k * kTileRows + r]);
      left[r] = hn::MulAdd(ar, b0, left[r]);
      right[r] = hn::MulAdd(ar, b1, right[r]);
    }
  }
  for (int r = 0; r < kTileRows && r < rows; ++r) {
    store_gradient(left[r], c + r * stride, cols, accumulate);
    if (cols > lanes) store_gradient(right[r], c + r * stride + lanes, cols - lanes, accumulate);
  }
}

void tiled_panel(const Product& p, std::vector<float>& packed_a, std::vector<float>& packed_b) {
  const int64_t tile_columns = 2 * float_lanes();
  const auto round_up = [](int64_t x, int64_t to) { return (x + to - 1) / to * to; };
  packed_a.resize(round_up(std::min(p.m, kPanelRows), kTileRows) * kDepth);
  packed_b.resize(round_up(std::min(p.n, kPanelColumns), tile_columns) * kDepth);
  if (p.k == 0 && !p.accumulate) {
    for (int64_t i = 0; i < p.m; ++i) std::fill_n(p.c + i * p.c_stride, p.n, 0.0f);
  }
  for (int64_t n0 = 0; n0 < p.n; n0 += kPanelColumns) {
    const int64_t cols = std::min(kPanelColumns, p.n - n0);
    for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
      const int64_t depth = std::min(kDepth, p.k - k0);
      const bool accumulate = p.accumulate || k0 > 0;
      pack_operand(p.b, /*by_column=*/true, n0, cols, k0, depth, tile_columns, packed_b.data());
      for (int64_t m0 = 0; m0 < p.m; m0 += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, p.m - m0);
        pack_operand(p.a, /*by_column=*/false, m0, rows, k0, depth, kTileRows, packed_a.data());
        for (int64_t j = 0; j < cols; j += tile_columns) {
          for (int64_t i = 0; i < rows; i += kTileRows) {
            multiply_tile(depth, packed_a.data() + i * depth, packed_b.data() + j * depth,
                          p.c + (m0 + i) * p.c_stride + n0 + j, p.c_stride, rows - i, cols - j,
                          accumulate);
          }
        }
      }
    }
  }
}

// --------------------------------------------------------------------------------------- few rows

HWY_INLINE FloatVector load_weights(const float* p) { return hn::LoadU(FloatTag(), p); }
HWY_INLINE FloatVector load_weights(const BFloat16* p) {
  // A bfloat16 is the upper half of a float32.
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
HWY_INLINE FloatVector load_weights(const Float16* p) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(FloatTag(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE float weight_as_float(float w) { return w; }
HWY_INLINE float weight_as_float(BFloat16 w) { return to_float(w); }
HWY_INLINE float weight_as_float(Float16 w) { return to_float(w); }

// kOutputs dot products with kRows inputs. Several weight rows at once: one stream of reads does
// not fill the memory's bandwidth (12 of 22 GB/s on one core of a Sapphire Rapids), four to eight
// do.
template <int kOutputs, int kRows, class W>
HWY_INLINE void dot_block(const W* HWY_RESTRICT weight, int64_t width, const float* HWY_RESTRICT x,
                          const float* HWY_RESTRICT residual, float* HWY_RESTRICT y,
                          int64_t outputs) {
  const FloatTag d;
  const int64_t lanes = float_lanes(), whole = width / lanes * lanes;
  FloatVector sums[kOutputs][kRows];
  for (int o = 0; o < kOutputs; ++o) {
    for (int r = 0; r < kRows; ++r) sums[o][r] = hn::Zero(d);
  }
  for (int64_t i = 0; i < whole; i += lanes) {
    FloatVector xs[kRows];
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) xs[r] = hn::LoadU(d, x + r * width + i);
    HWY_UNROLL(8)
    for (int o = 0; o < kOutputs; ++o) {
      const auto w = load_weights(weight + o * width + i);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) sums[o][r] = hn::MulAdd(w, xs[r], sums[o][r]);
    }
  }
  for (int o = 0; o < kOutputs; ++o) {
    for (int r = 0; r < kRows; ++r) {
      float sum = sum_lanes(sums[o][r]);
      for (int64_t i = whole; i < width; ++i) {
        sum += weight_as_float(weight[o * width + i]) * x[r * width + i];
      }
      y[r * outputs + o] = residual == nullptr ? sum : sum + residual[r * outputs + o];
    }
  }
}

template <int kOutputs, class W>
HWY_INLINE void all_rows(const W* weight, int64_t width, const float* x, int64_t rows,
                         const float* residual, float* y, int64_t outputs) {
  const auto at = [&](int64_t r) { return residual == nullptr ? nullptr : residual + r * outputs; };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    dot_block<kOutputs, 4>(weight, width, x + r * width, at(r), y + r * outputs, outputs);
  }
  for (; r < rows; ++r) {
    dot_block<kOutputs, 1>(weight, width, x + r * width, at(r), y + r * outputs, outputs);
  }
}

template <class W>
HWY_INLINE void few_rows_typed(const TensorView& x, const TensorView& weight, const float* residual,
                               float* y, int64_t begin, int64_t end) {
  const int64_t width = weight.cols(), outputs = weight.rows(), rows = x.rows();
  const float* input = x.as<float>();
  const auto from = [&](int64_t o) { return residual == nullptr ? nullptr : residual + o; };
  int64_t o = begin;
  // For one row, eight outputs at once: the end of a short row, with its sums over lanes and its
  // mispredicted branch, costs as much as 2 KiB of weights.
  for (; rows == 1 && o + 8 <= end; o += 8) {
    dot_block<8, 1>(weight.as<W>() + o * width, width, input, from(o), y + o, outputs);
  }
  for (; o + 4 <= end; o += 4) {
    all_rows<4>(weight.as<W>() + o * width, width, input, rows, from(o), y + o, outputs);
  }
  for (; o < end; ++o) {
    all_rows<1>(weight.as<W>() + o * width, width, input, rows, from(o), y + o, outputs);
  }
}

void few_rows_panel(const TensorView& x, const TensorView& weight, const float* residual, float* y,
                    int64_t begin, int64_t end) {
  switch (weight.dtype) {
    case DType::kF32:
      return few_rows_typed<float>(x, weight, residual, y, begin, end);
    case DType::kBF16:
      return few_rows_typed<BFloat16>(x, weight, residual, y, begin, end);
    case DType::kF16:
      return few_rows_typed<Float16>(x, weight, residual, y, begin, end);
    default:
      return;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/cpu_info.h"

namespace rookery {
HWY_EXPORT(tiled_panel);
HWY_EXPORT(few_rows_panel);

namespace cpu {

bool has_fast_bf16_products() {
#ifdef ROOKERY_ONEDNN
  return cpu_info().bf16_products;
#else
  return false;
#endif
}

namespace {

// Panels of C: [begin, end) of its rows or of its columns.
Product panel_of(const Product& p, bool by_rows, int64_t begin, int64_t end) {
  Product panel = p;
  const auto advance = [](const Operand& x, int64_t elements) {
    return static_cast<const char*>(x.data) + elements * size_of(x.dtype);
  };
  if (by_rows) {
    panel.m = end - begin;
    panel.a.data = advance(p.a, p.a.transposed ? begin : begin * p.a.stride);
    panel.c = p.c + begin * p.c_stride;
  } else {
    panel.n = end - begin;
    panel.b.data = advance(p.b, p.b.transposed ? begin * p.b.stride : begin);
    panel.c = p.c + begin;
  }
  return panel;
}

bool onednn_takes([[maybe_unused]] const Product& p, [[maybe_unused]] const Context& ctx) {
#ifdef ROOKERY_ONEDNN
  if (ctx.deterministic || p.a.dtype != p.b.dtype || p.k == 0) return false;
  return p.a.dtype == DType::kF32 || (p.a.dtype == DType::kBF16 && has_fast_bf16_products());
#else
  return false;
#endif
}

}  // namespace

void product_tiled(const Product& panel) {
  // Kept between calls: at most 0.6 MiB for each thread.
  thread_local std::vector<float> packed_a, packed_b;
  HWY_DYNAMIC_DISPATCH(tiled_panel)(panel, packed_a, packed_b);
}

void product(const Product& p, Context& ctx) {
  if (p.m == 0 || p.n == 0) return;
  const bool onednn = onednn_takes(p, ctx);
  // The longer side is cut, at multiples of a cache line's and a tile's elements.
  const bool by_rows = p.m > p.n;
  const int64_t length = by_rows ? p.m : p.n, unit = 48;
  // A panel below some 200,000 multiplications is not worth waking a thread for.
  const int64_t other = std::max<int64_t>((by_rows ? p.n : p.m) * p.k, 1);
  const int64_t worth = std::max<int64_t>(length * other / 200000, 1);
  const int64_t panels =
      std::min({static_cast<int64_t>(ctx.threads()), worth, (length + unit - 1) / unit});
  const auto border = [&](int64_t i) {
    return std::min(length, (length * i / panels + unit - 1) / unit * unit);
  };
  ctx.pool->run(panels, [&](int64_t i, int) {
    if (border(i) == border(i + 1)) return;  // rounding left this one nothing
    const Product panel = panel_of(p, by_rows, border(i), border(i + 1));
#ifdef ROOKERY_ONEDNN
    if (onednn) return product_onednn(panel);
#endif
    product_tiled(panel);
  });
  (void)onednn;
}

void few_rows_products(std::span<const FewRows> products, Context& ctx) {
  // Pieces of some 128 KiB of weights: long streams, and a late thread costs one piece only.
  constexpr int64_t kPieceBytes = int64_t{128} << 10;
  const auto rows_of_piece = [](const FewRows& p) {
    const int64_t row_bytes = std::max<int64_t>(p.weight.cols() * size_of(p.weight.dtype), 1);
    return std::max<int64_t>((kPieceBytes / row_bytes + 7) / 8 * 8, 8);
  };
  int64_t pieces = 0;
  for (const FewRows& p : products) {
    pieces += (p.weight.rows() + rows_of_piece(p) - 1) / rows_of_piece(p);
  }
  ctx.pool->run(pieces, [&](int64_t i, int) {
    for (const FewRows& p : products) {
      const int64_t piece = rows_of_piece(p), count = (p.weight.rows() + piece - 1) / piece;
      if (i < count) {
        HWY_DYNAMIC_DISPATCH(few_rows_panel)
        (p.x, p.weight, p.residual, p.y, i * piece, std::min(p.weight.rows(), (i + 1) * piece));
        return;
      }
      i -= count;
    }
  });
}

int64_t product_scratch_bytes(int threads) {
#ifdef ROOKERY_ONEDNN
  // oneDNN packs its operands into memory of the C library's, which stays there between products:
  // 12 MiB of the main thread and 19 of the other were measured while training at widths 256 and
  // 768.
  constexpr int64_t kPerThread = int64_t{15} << 20;
#else
  constexpr int64_t kPerThread = int64_t{640} << 10;
#endif
  return threads * kPerThread;
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
