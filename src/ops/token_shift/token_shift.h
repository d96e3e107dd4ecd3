// Token shift of RWKV-4 and 5 (arXiv 2305.13048, equations 11-13): every channel is a mix of this
// token and the one before it in its sequence, once for each of several sets of weights, in one
// pass over x:
//   y_i[t] = m_i x[t] + (1 - m_i) x[t-1]
// Before a sequence's first token stands the last one of its state, or zero.
#pragma once

#include <span>

#include "core/context.h"

namespace rookery {

inline constexpr int kMaxMixes = 6;

struct TokenShiftForward {
  int count = 0;                // of mixes
  TensorView x;                 // [T, C]
  TensorView mix[kMaxMixes];    // [C]
  Sequences sequences;          // T rows
  StateView last_in, last_out;  // [slots] of C, or empty; may be the same memory
  TensorView y[kMaxMixes];      // [T, C]

  template <class Visitor>
  void visit(Visitor& v) {
    static constexpr const char* kMix[] = {"mix0", "mix1", "mix2", "mix3", "mix4", "mix5"};
    static constexpr const char* kY[] = {"y0", "y1", "y2", "y3", "y4", "y5"};
    v.input("x", x);
    for (int i = 0; i < count; ++i) v.input(kMix[i], mix[i]);
    for (int i = 0; i < count; ++i) v.output(kY[i], y[i]);
    v.state("last", last_in, last_out);
    v.sequences(sequences);
  }
  double terms() const { return 2.0 * static_cast<double>(std::max<int64_t>(x.rows(), 4)); }
};

struct TokenShiftBackward {
  TokenShiftForward forward;
  TensorView dy[kMaxMixes];  // [T, C]; empty: zero
  GradView dx;               // [T, C]
  GradView dmix[kMaxMixes];  // [C]
  StateView dlast_out;       // gradient of the state left behind, or empty
  StateView dlast_in;        // wanted gradient of the initial state, or empty; written
  TensorView partial_sums;   // [threads, count, C] scratch: shares of dmix

  template <class Visitor>
  void visit(Visitor& v) {
    static constexpr const char* kMix[] = {"mix0", "mix1", "mix2", "mix3", "mix4", "mix5"};
    static constexpr const char* kY[] = {"y0", "y1", "y2", "y3", "y4", "y5"};
    for (int i = 0; i < forward.count; ++i) v.upstream(kY[i], dy[i]);
    v.gradient("x", dx);
    for (int i = 0; i < forward.count; ++i) v.gradient(kMix[i], dmix[i]);
    v.state_upstream("last", dlast_out);
    v.state_gradient("last", dlast_in);
  }
};

namespace cpu {
void token_shift_forward(const TokenShiftForward& g, Context& ctx);
void token_shift_backward(const TokenShiftBackward& g, Context& ctx);
}  // namespace cpu
namespace cuda {
void token_shift_forward(const TokenShiftForward& g, Context& ctx);
void token_shift_backward(const TokenShiftBackward& g, Context& ctx);
}  // namespace cuda

// x [T, C], each mix [C] -> as many outputs [T, C]. Throws when the sizes differ.
std::vector<Tensor> token_shift(Context& ctx, const Tensor& x, std::span<const Tensor> mixes,
                                const Sequences& sequences, const StateView& last_in,
                                const StateView& last_out);

}  // namespace rookery
