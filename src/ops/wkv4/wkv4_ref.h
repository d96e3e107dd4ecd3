// The definition of WKV-4. The exponent p is real at any T: it is a gauge, and takes no derivative.
#pragma once

#include <algorithm>
#include <complex>

#include "ops/wkv4/wkv4.h"

namespace rookery::ref {

template <class T>
void wkv4_forward(const Wkv4Forward& g) {
  const int64_t width = g.w.count();
  const T *w = g.w.as<T>(), *u = g.u.as<T>(), *k = g.k.as<T>(), *v = g.v.as<T>();
  for (int64_t s = 0; s < g.sequences.count; ++s) {
    const int64_t in = g.a_in ? g.sequences.slot_in[s] : -1;
    const int64_t out = g.a_out ? g.sequences.slot_out[s] : -1;
    for (int64_t c = 0; c < width; ++c) {
      T a = 0, b = 0;
      double p = kWkv4EmptyExponent;
      if (in >= 0) {
        a = g.a_in.slot<T>(in)[c];
        b = g.b_in.slot<T>(in)[c];
        p = std::real(g.p_in.slot<T>(in)[c]);
      }
      for (int64_t t = g.sequences.offsets[s]; t < g.sequences.offsets[s + 1]; ++t) {
        const T kt = k[t * width + c], vt = v[t * width + c];
        double q = std::max(p, std::real(u[c] + kt));
        const T before = std::exp(p - q), now = std::exp(u[c] + kt - q);
        g.y.as<T>()[t * width + c] = (before * a + now * vt) / (before * b + now);
        q = std::max(p + std::real(w[c]), std::real(kt));
        const T decayed = std::exp(p + w[c] - q), added = std::exp(kt - q);
        a = decayed * a + added * vt;
        b = decayed * b + added;
        p = q;
      }
      if (out >= 0) {
        g.a_out.slot<T>(out)[c] = a;
        g.b_out.slot<T>(out)[c] = b;
        g.p_out.slot<T>(out)[c] = p;
      }
    }
  }
}

}  // namespace rookery::ref
