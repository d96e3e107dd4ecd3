// WKV of RWKV-4 (arXiv 2305.13048, equation 16), each channel by itself:
//
//   y_t = (a_{t-1} + e^(u + k_t) v_t) / (b_{t-1} + e^(u + k_t))
//   a_t = e^w a_{t-1} + e^(k_t) v_t,      b_t = e^w b_{t-1} + e^(k_t)
//
// w <= 0 is the log of the decay, u the bonus of the current token. e^k overflows, so the state is
// kept as (a e^-p, b e^-p, p) with p the running maximum of the exponents (the paper's Appendix D);
// p is a gauge: no gradient flows through it. The empty state is a = b = 0, p = -1e38.
#pragma once

#include <cmath>
#include <string_view>

#include "core/context.h"

namespace rookery {

inline constexpr double kWkv4EmptyExponent = -1e38;

struct Wkv4Forward {
  TensorView w;                // [A] log decay
  TensorView u;                // [A] bonus
  TensorView k, v;             // [T, A]
  Sequences sequences;         // T rows
  StateView a_in, b_in, p_in;  // [slots] of A, or empty: every sequence starts from the empty state
  StateView a_out, b_out, p_out;  // may be the same memory; or empty
  TensorView y;                   // [T, A]
  // [wkv4_segment_count, 3, A] float32: (a, b, p) before each segment, kept for the backward; or
  // empty. On a GPU p counts powers of 2, and the first segment of a sequence has none.
  TensorView segment_states;

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.input("w", w);
    visitor.input("u", u);
    visitor.input("k", k);
    visitor.input("v", v);
    visitor.state("a", a_in, a_out);
    visitor.state("b", b_in, b_out);
    visitor.state("p", p_in, p_out);
    visitor.output("y", y);
    visitor.saved("segment_states", segment_states);
    visitor.sequences(sequences);
  }
  // Rounding of w grows with the distance it is applied over, that of k does not.
  double terms() const { return 16.0 * static_cast<double>(y.rows()); }
  // A state's exponent p is rounded at every token. y divides by a sum with the same p.
  double exponent(std::string_view name) const;
  // Only a e^p and b e^p mean something: they are compared, in units of the expected e^p.
  template <class States>
  static void in_one_gauge(States& actual, const States& expected) {
    if (!actual.contains("p")) return;
    auto &a = actual["a"], &b = actual["b"], &p = actual["p"];
    constexpr double kHardly = kWkv4EmptyExponent / 2;  // e^p is 0: a and b are what they are
    for (size_t i = 0; i < p.size(); ++i) {
      const double wanted = expected.at("p")[i];
      const double unit = p[i] < kHardly && wanted < kHardly ? 1 : std::exp(p[i] - wanted);
      a[i] *= unit, b[i] *= unit, p[i] = wanted;
    }
  }
};

struct Wkv4Backward {
  Wkv4Forward forward;
  TensorView dy;             // [T, A]
  GradView dw, du;           // [A]
  GradView dk, dv;           // [T, A]
  StateView da_out, db_out;  // gradient of the final a and b (in their gauge), or empty: zero
  StateView da_in, db_in;    // wanted gradient of the initial a and b, or empty; written
  TensorView partial_sums;   // [2 threads, 2, A] scratch: shares of dw and du
  TensorView states;  // [threads, kWkv4Segment, 3, kWkv4Lanes] scratch: states inside a segment

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor.upstream("y", dy);
    visitor.gradient("w", dw);
    visitor.gradient("u", du);
    visitor.gradient("k", dk);
    visitor.gradient("v", dv);
    visitor.state_upstream("a", da_out);
    visitor.state_upstream("b", db_out);
    visitor.state_gradient("a", da_in);
    visitor.state_gradient("b", db_in);
  }
  // The gradients of w and u are sums of dy times differences of v and y, of which little remains
  // where one token's weight is nearly all.
  double least(std::string_view name) const;
};

// Tokens between two saved states, and channels that one task handles at most.
inline constexpr int64_t kWkv4Segment = 128, kWkv4Block = 64;
// Channels of the largest vector of any target: the backward keeps the states inside a segment for
// one vector (128 x 3 x 16 floats = 24 KiB, half of a first-level cache).
inline constexpr int64_t kWkv4Lanes = 16;
// Rows between two saved states on a GPU: what one warp takes at a time.
inline constexpr int64_t kWkv4DeviceTile = 16;

// Saved states of these sequences. On a CPU one for each segment of kWkv4Segment tokens of a
// sequence; on a GPU one for each kWkv4DeviceTile rows, whatever lies in them.
int64_t wkv4_segment_count(const Sequences& sequences, Device device);

namespace cpu {
void wkv4_forward(const Wkv4Forward& g, Context& ctx);
void wkv4_backward(const Wkv4Backward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void wkv4_forward(const Wkv4Forward& g, Context& ctx);
void wkv4_backward(const Wkv4Backward& g, Context& ctx);
}  // namespace cuda

// The recurrent state of WKV-4 for all slots, before and after; empty views: none.
struct Wkv4State {
  StateView a_in, b_in, p_in, a_out, b_out, p_out;
};

// w, u [A]; k, v [T, A] -> y [T, A]. Throws when the sizes differ.
Tensor wkv4(Context& ctx, const Tensor& w, const Tensor& u, const Tensor& k, const Tensor& v,
            const Sequences& sequences, const Wkv4State& state);

}  // namespace rookery
