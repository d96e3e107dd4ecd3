// The head with its loss on the CPU: products for chunks of rows, softmax by rows over the threads.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cross_entropy/cross_entropy_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/convert.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/cross_entropy/softmax-inl.h"
#include "ops/linear/product_cpu.h"

#ifndef ROOKERY_CROSS_ENTROPY_ROW_H_
#define ROOKERY_CROSS_ENTROPY_ROW_H_
namespace rookery {
struct CrossEntropyRow {
  double loss, largest;
};
}  // namespace rookery
#endif

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// The loss of one row of logits; with `factor` != 0 the row becomes its gradient,
// factor * (softmax - one at the target + l2wrap * largest at the largest).
CrossEntropyRow softmax_row(float* z, int64_t count, int64_t target, float factor, float l2wrap) {
  const float largest = largest_of(z, count), target_logit = z[target];
  int64_t largest_index = 0;
  if (factor != 0 && l2wrap != 0) {
    while (largest_index + 1 < count && z[largest_index] != largest) ++largest_index;
  }
  const double total = sum_of_exponentials(z, count, largest, factor == 0 ? nullptr : z);
  if (factor != 0) {
    const auto scale = hn::Set(FloatTag(), static_cast<float>(factor / total));
    for_vectors(count,
                [&](int64_t i, int64_t n) { store(hn::Mul(load(z + i, n), scale), z + i, n); });
    z[target] -= factor;
    z[largest_index] += factor * l2wrap * largest;
  }
  return {static_cast<double>(largest) + std::log(total) - target_logit, largest};
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {
HWY_EXPORT(softmax_row);

namespace cpu {
namespace {

TensorView first_rows(const TensorView& view, int64_t rows) {
  TensorView part = view;
  part.shape[0] = rows;
  return part;
}

// Both directions: `backward` null computes the losses only.
void run(const CrossEntropyForward& g, const CrossEntropyBackward* backward, Context& ctx) {
  const int64_t rows = g.x.rows(), width = g.x.cols(), vocabulary = g.weight.rows();
  const int64_t chunk = g.logits.rows();
  const float factor =
      backward == nullptr ? 0.0f : static_cast<float>(g.scale * *backward->dobjective.as<float>());
  float* logits = g.logits.as<float>();
  double objective = 0, loss_sum = 0;
  std::vector<double> largest(chunk);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    TensorView x{g.x.as<float>() + first * width, DType::kF32, {count, width}};
    if (g.low_x) {
      convert(x, first_rows(g.low_x, count), ctx.pool);
      x = first_rows(g.low_x, count);
    }
    product({.m = count,
             .n = vocabulary,
             .k = width,
             .a = {x.data, x.dtype, width, false},
             .b = {g.weight.data, g.weight.dtype, width, true},
             .c = logits,
             .c_stride = vocabulary},
            ctx);
    ctx.pool->for_ranges(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        float* row = logits + t * vocabulary;
        float& loss = g.losses.as<float>()[first + t];
        const int32_t target = g.targets[first + t];
        loss = 0;
        largest[t] = 0;
        if (target < 0) {
          if (backward != nullptr) std::fill_n(row, vocabulary, 0.0f);
          continue;
        }
        const CrossEntropyRow result = HWY_DYNAMIC_DISPATCH(softmax_row)(
            row, vocabulary, target, factor, static_cast<float>(g.l2wrap));
        loss = static_cast<float>(result.loss);
        largest[t] = result.largest;
      }
    });
    for (int64_t t = 0; t < count; ++t) {
      loss_sum += g.losses.as<float>()[first + t];
      objective += g.losses.as<float>()[first + t] + 0.5 * g.l2wrap * largest[t] * largest[t];
    }
    if (backward == nullptr) continue;
    TensorView dlogits = first_rows(g.logits, count);
    if (g.low_logits) {
      convert(dlogits, first_rows(g.low_logits, count), ctx.pool);
      dlogits = first_rows(g.low_logits, count);
    }
    if (backward->dx) {
      product({.m = count,
               .n = width,
               .k = vocabulary,
               .a = {dlogits.data, dlogits.dtype, vocabulary, false},
               .b = {g.weight.data, g.weight.dtype, width, false},
               .c = backward->dx.as<float>() + first * width,
               .c_stride = width,
               .accumulate = backward->dx.accumulate},
              ctx);
    }
    if (backward->dweight) {
      product({.m = vocabulary,
               .n = width,
               .k = count,
               .a = {dlogits.data, dlogits.dtype, vocabulary, true},
               .b = {x.data, x.dtype, width, false},
               .c = backward->dweight.as<float>(),
               .c_stride = width,
               .accumulate = backward->dweight.accumulate || first > 0},
              ctx);
    }
  }
  *g.objective.as<float>() = static_cast<float>(g.scale * objective);
  *g.loss_sum.as<double>() = loss_sum;
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& g, Context& ctx) { run(g, nullptr, ctx); }
void cross_entropy_backward(const CrossEntropyBackward& g, Context& ctx) {
  run(g.forward, &g, ctx);
}

}  // namespace cpu
}  // namespace rookery
#endif  // HWY_ONCE
