#include "ops/adamw/adamw.h"

#include "ops/dispatch.h"
#include "ops/adamw/adamw_ref.h"

namespace rookery {

void adamw(Context& ctx, const AdamWForward& args) {
  for (const AdamWTensor& t : args.tensors) {
    const int64_t count = t.parameter.count();
    check(t.gradient.count() == count && t.m.count() == count && t.v.count() == count &&
          (!t.low || t.low.count() == count)) ||
        fail("adamw: parameter {} needs gradient, m, v and low of its size, got {}, {}, {} and {}",
             t.parameter.shape.to_string(), t.gradient.shape.to_string(), t.m.shape.to_string(),
             t.v.shape.to_string(), t.low ? t.low.shape.to_string() : "(none)");
  }
  ROOKERY_FORWARD(ctx, adamw, args);
}

}  // namespace rookery
