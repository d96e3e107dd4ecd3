// Embedding on the CPU. Forward: rows over threads. Backward: channels over threads, so that rows
// of one id are always added in the order of the tokens and the sums do not depend on the number of
// threads.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/embedding/embedding_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>

#include "core/simd-inl.h"
#include "ops/embedding/embedding.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

template <class T>
void convert_rows(const EmbeddingForward& g, int64_t begin, int64_t end) {
  const int64_t width = g.table.shape[1];
  for (int64_t t = begin; t < end; ++t) {
    const T* row = g.table.as<T>() + g.ids[t] * width;
    float* y = g.y.as<float>() + t * width;
    for (int64_t c = 0; c < width; ++c) y[c] = to_float(row[c]);
  }
}

void forward_rows(const EmbeddingForward& g, int64_t begin, int64_t end) {
  switch (g.table.dtype) {
    case DType::kF32:
      break;
    case DType::kF16:
      return convert_rows<Float16>(g, begin, end);
    case DType::kBF16:
      return convert_rows<BFloat16>(g, begin, end);
    default:
      fail("embedding: a table of {} cannot be read on the CPU", name_of(g.table.dtype));
  }
  const int64_t width = g.table.shape[1];
  for (int64_t t = begin; t < end; ++t) {
    std::copy_n(g.table.as<float>() + g.ids[t] * width, width, g.y.as<float>() + t * width);
  }
}

// Channels begin .. end - 1 of every row.
void backward_channels(const EmbeddingBackward& g, int64_t begin, int64_t end) {
  const int64_t rows = g.dy.rows(), width = g.dtable.shape[1];
  for (int64_t t = 0; t < rows; ++t) {
    const float* dy = g.dy.as<float>() + t * width + begin;
    float* sum = g.dtable.as<float>() + g.forward.ids[t] * width + begin;
    for_vectors(end - begin, [&](int64_t i, int64_t n) {
      store_gradient(load(dy + i, n), sum + i, n, /*accumulate=*/true);
    });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(forward_rows);
HWY_EXPORT(backward_channels);

namespace cpu {

void embedding_forward(const EmbeddingForward& g, Context& ctx) {
  const int64_t width = g.table.shape[1];
  ctx.pool->for_ranges(g.y.rows(), 16384 / std::max<int64_t>(width, 1),
                       [&](int64_t begin, int64_t end, int) {
                         HWY_DYNAMIC_DISPATCH(forward_rows)(g, begin, end);
                       });
}

void embedding_backward(const EmbeddingBackward& g, Context& ctx) {
  if (!g.dtable) return;
  if (!g.dtable.accumulate) {
    ctx.pool->for_ranges(g.dtable.count(), 16384, [&](int64_t begin, int64_t end, int) {
      std::fill(g.dtable.as<float>() + begin, g.dtable.as<float>() + end, 0.0f);
    });
  }
  // Whole cache lines, or two threads would write to one.
  constexpr int64_t kLine = 64 / sizeof(float);
  const int64_t width = g.dtable.shape[1];
  ctx.pool->for_ranges((width + kLine - 1) / kLine, 1, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(backward_channels)(g, begin * kLine, std::min(end * kLine, width));
  });
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
