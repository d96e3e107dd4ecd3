#include "ops/global_norm/global_norm.h"

#include "ops/dispatch.h"
#include "ops/global_norm/global_norm_ref.h"

namespace rookery {

TensorView global_norm(Context& ctx, std::span<const TensorView> gradients) {
  const DType dtype = ctx.device == Device::kRef ? ctx.dtype : DType::kF32;
  for (const TensorView& gradient : gradients) {
    check(gradient.dtype == dtype) ||
        fail("global_norm: a gradient {} is {}, expected {}", gradient.shape.to_string(),
             name_of(gradient.dtype), name_of(dtype));
  }
  GlobalNormForward forward{{gradients.begin(), gradients.end()}, {}, {}};
  forward.norm = ctx.arena->make({1}, dtype == DType::kC128 ? DType::kC128 : DType::kF64);
  const ArenaScope scope(*ctx.arena);
  const int64_t chunks =
      (forward.count() + GlobalNormForward::kChunk - 1) / GlobalNormForward::kChunk;
  forward.partial_sums = ctx.arena->make({chunks}, DType::kF64);
  ROOKERY_FORWARD(ctx, global_norm, forward);
  return forward.norm;
}

}  // namespace rookery
