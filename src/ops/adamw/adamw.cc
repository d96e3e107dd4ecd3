#include "ops/adamw/adamw.h"

#include "core/dispatch.h"
#include "ops/adamw/adamw_ref.h"

namespace rookery {

void adamw(Context& ctx, const AdamWForward& args) {
  const int64_t count = args.parameter.count();
  check(args.gradient.count() == count && args.m.count() == count && args.v.count() == count &&
            (!args.low || args.low.count() == count),
        "adamw: parameter {} needs gradient, m, v and low of its size, got {}, {}, {} and {}",
        args.parameter.shape.to_string(), args.gradient.shape.to_string(), args.m.shape.to_string(),
        args.v.shape.to_string(), args.low ? args.low.shape.to_string() : "(none)");
  ROOKERY_FORWARD(ctx, adamw, args);
}

}  // namespace rookery
