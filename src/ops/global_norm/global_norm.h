// The norm of all gradients together, for clipping: sqrt(sum over tensors and elements of x^2).
#pragma once

#include <fmt/format.h>

#include <numeric>
#include <span>
#include <vector>

#include "core/context.h"

namespace rookery {

struct GlobalNormForward {
  // The tensors laid end to end are cut into chunks of so many elements, each summed by itself: the
  // sum does not depend on the number of threads, and a thousand small tensors cost no more than a
  // large one.
  static constexpr int64_t kChunk = 65536;

  std::vector<TensorView> gradients;  // any shapes, F32
  TensorView partial_sums;            // [chunks], F64, scratch
  TensorView norm;                    // [1], F64

  int64_t count() const {
    return std::accumulate(gradients.begin(), gradients.end(), int64_t{0},
                           [](int64_t sum, const TensorView& x) { return sum + x.count(); });
  }

  template <class Visitor>
  void visit(Visitor& v) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      v.input(fmt::format("gradient {}", i).c_str(), gradients[i]);
    }
    v.output("norm", norm);
  }
  double terms() const { return 1; }  // squares are added in double
};

namespace cpu {
void global_norm_forward(const GlobalNormForward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void global_norm_forward(const GlobalNormForward& g, Context& ctx);
}  // namespace cuda

// [1], in double: 0 for no tensors; infinity or NaN when a gradient is. Throws for a tensor that is
// not of the type of gradients (F32; under `ref` the context's).
TensorView global_norm(Context& ctx, std::span<const TensorView> gradients);

}  // namespace rookery
