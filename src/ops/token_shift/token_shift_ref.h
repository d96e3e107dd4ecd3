// The definition of token shift.
#pragma once

#include "ops/token_shift/token_shift.h"

namespace rookery::ref {

template <class T>
void token_shift_forward(const TokenShiftForward& g) {
  const int64_t width = g.x.cols();
  const T* x = g.x.as<T>();
  for (int64_t s = 0; s < g.sequences.count; ++s) {
    const int64_t begin = g.sequences.offsets[s], end = g.sequences.offsets[s + 1];
    const int64_t in = g.last_in ? g.sequences.slot_in[s] : -1;
    const int64_t out = g.last_out ? g.sequences.slot_out[s] : -1;
    for (int64_t c = 0; c < width; ++c) {
      T previous = in >= 0 ? g.last_in.slot<T>(in)[c] : T(0);
      for (int64_t t = begin; t < end; ++t) {
        const T now = x[t * width + c];
        for (int i = 0; i < g.count; ++i) {
          const T m = g.mix[i].as<T>()[c];
          g.y[i].as<T>()[t * width + c] = m * now + (1.0 - m) * previous;
        }
        previous = now;
      }
      if (out >= 0) g.last_out.slot<T>(out)[c] = previous;
    }
  }
}

}  // namespace rookery::ref
