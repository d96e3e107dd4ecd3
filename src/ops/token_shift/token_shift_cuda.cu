// Token shift on the GPU. A thread has 16 bytes of channels and walks over rows, so that the row
// before (or, backwards, the one behind) stays in registers. Borders of sequences are looked up by
// row: launches depend on the sizes alone. Only a sequence without tokens, whose state passes
// through, is seen by the host.

#include <algorithm>
#include <type_traits>

#include "core/cuda/elementwise.cuh"
#include "core/cuda/sequence.cuh"
#include "core/cuda/shares.cuh"
#include "ops/token_shift/token_shift.h"

namespace rookery::cuda {
namespace {

constexpr int kForwardRows = 4;   // of one thread
constexpr int kBackwardRows = 2;  // read at once
constexpr int kBorderRows = 8;    // looked at by one block
constexpr int kBorderThreads = 256;

template <class T>
struct Forward {
  int count;
  const T* x;
  const float* mix[kMaxMixes];
  T* y[kMaxMixes];
  DeviceSequences sequences;
  DeviceState last_in, last_out;
  int64_t rows, width;
  bool keeps_state;  // no sequence is longer than one thread's rows: write the state here
};

template <class T>
struct Backward {
  int count;
  const T* x;
  const float* mix[kMaxMixes];
  const T* dy[kMaxMixes];  // null: zero
  GradientOut<T> dx;
  DeviceSequences sequences;
  DeviceState last_in, dlast_out, dlast_in;
  float* shares;  // [blocks along x, count, width]
  int64_t rows, width;
};

// Channels c .. of the state in `slot`; zero without one.
template <int kPack>
__device__ __forceinline__ void load_state(const DeviceState& state, int64_t slot, int64_t c,
                                           float (&x)[kPack]) {
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    x[k] = state.data == nullptr || slot < 0 ? 0.0f : state.at(slot, c + k);
  }
}

// kCount: of mixes; kMaxMixes serves any count.
template <class T, int kPack, int kCount>
__global__ void __launch_bounds__(256) forward_kernel(const __grid_constant__ Forward<T> g) {
  let_next_begin();
  wait_for_previous();
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kPack;
  if (c >= g.width) return;
  const int64_t begin = int64_t{blockIdx.x} * kForwardRows;
  Pack<T, kPack> rows[kForwardRows];
  int64_t sequence[kForwardRows];
  bool first[kForwardRows];
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    if (begin + r >= g.rows) continue;
    rows[r] = *reinterpret_cast<const Pack<T, kPack>*>(g.x + (begin + r) * g.width + c);
    sequence[r] = g.sequences.of_row[begin + r];
  }
  float before[kPack], mix[kCount][kPack];
  if (begin > 0) load_pack(g.x + (begin - 1) * g.width + c, before);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (kCount < kMaxMixes || i < g.count) load_pack(g.mix[i] + c, mix[i]);
  }
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    if (begin + r < g.rows) first[r] = g.sequences.offsets[sequence[r]] == begin + r;
  }
#pragma unroll
  for (int r = 0; r < kForwardRows; ++r) {
    const int64_t t = begin + r;
    if (t >= g.rows) continue;
    if (first[r]) load_state(g.last_in, g.sequences.slot_in[sequence[r]], c, before);
    float now[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) now[k] = to_float(rows[r].values[k]);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (kCount == kMaxMixes && i >= g.count) continue;
      float y[kPack];
#pragma unroll
      for (int k = 0; k < kPack; ++k) y[k] = fmaf(mix[i][k], now[k] - before[k], before[k]);
      store_pack(g.y[i] + t * g.width + c, y);
    }
#pragma unroll
    for (int k = 0; k < kPack; ++k) before[k] = now[k];
    if (g.keeps_state && g.sequences.offsets[sequence[r] + 1] == t + 1) {
      const int64_t slot = g.sequences.slot_out[sequence[r]];
      if (slot < 0) continue;
#pragma unroll
      for (int k = 0; k < kPack; ++k) g.last_out.at(slot, c + k) = now[k];
    }
  }
}

// The last row of each sequence into its state. After the forward, because the state may be updated
// in place and every first row must have read it.
template <class T>
__global__ void __launch_bounds__(kBorderThreads)
    keep_last_kernel(const __grid_constant__ Forward<T> g) {
  let_next_begin();
  wait_for_previous();
  const int64_t begin = int64_t{blockIdx.x} * kBorderRows;
  int64_t sequence[kBorderRows], slot[kBorderRows];
#pragma unroll
  for (int r = 0; r < kBorderRows; ++r) {
    sequence[r] = begin + r < g.rows ? g.sequences.of_row[begin + r] : -1;
  }
#pragma unroll
  for (int r = 0; r < kBorderRows; ++r) {
    const bool last = sequence[r] >= 0 && g.sequences.offsets[sequence[r] + 1] == begin + r + 1;
    slot[r] = last ? g.sequences.slot_out[sequence[r]] : -1;
  }
  for (int64_t c = int64_t{blockIdx.y} * kBorderThreads + threadIdx.x; c < g.width;
       c += int64_t{gridDim.y} * kBorderThreads) {
    T x[kBorderRows];
#pragma unroll
    for (int r = 0; r < kBorderRows; ++r) {
      if (slot[r] >= 0) x[r] = g.x[(begin + r) * g.width + c];
    }
#pragma unroll
    for (int r = 0; r < kBorderRows; ++r) {
      if (slot[r] >= 0) g.last_out.at(slot[r], c) = to_float(x[r]);
    }
  }
}

// dx[t] = sum over i of m_i dy_i[t] + (1 - m_i) dy_i[t+1], or the gradient of the state behind the
// last row; dm_i = sum over t of dy_i[t] (x[t] - x[t-1]). A block walks over its share of the rows
// from the last to the first.
template <class T, int kPack, int kCount>
__global__ void __launch_bounds__(256) backward_kernel(const __grid_constant__ Backward<T> g) {
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kPack;
  if (c >= g.width) return;
  const int64_t begin = g.rows * blockIdx.x / gridDim.x;
  const int64_t end = g.rows * (int64_t{blockIdx.x} + 1) / gridDim.x;
  const T* const x = g.x + c;
  float mix[kCount][kPack], dmix[kCount][kPack];
  float later[kPack];  // what the row behind gives: sum over i of (1 - m_i) dy_i[t+1]
#pragma unroll
  for (int k = 0; k < kPack; ++k) later[k] = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) dmix[i][k] = mix[i][k] = 0;
    if (kCount == kMaxMixes && i >= g.count) continue;
    load_pack(g.mix[i] + c, mix[i]);
    if (end == g.rows || g.dy[i] == nullptr) continue;
    float dy[kPack];
    load_pack(g.dy[i] + end * g.width + c, dy);
#pragma unroll
    for (int k = 0; k < kPack; ++k) later[k] = fmaf(1 - mix[i][k], dy[k], later[k]);
  }
  float now[kPack];
  load_pack(x + (end - 1) * g.width, now);
  for (int64_t top = end - 1; top >= begin; top -= kBackwardRows) {
    Pack<T, kPack> x_before[kBackwardRows], dys[kBackwardRows][kCount];
    int64_t sequence[kBackwardRows], first[kBackwardRows], past[kBackwardRows];
#pragma unroll
    for (int r = 0; r < kBackwardRows; ++r) {
      const int64_t t = top - r;
      if (t < begin) continue;
      sequence[r] = g.sequences.of_row[t];
      if (t > 0) {
        x_before[r] = *reinterpret_cast<const Pack<T, kPack>*>(x + (t - 1) * g.width);
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if ((kCount == kMaxMixes && i >= g.count) || g.dy[i] == nullptr) continue;
        dys[r][i] = *reinterpret_cast<const Pack<T, kPack>*>(g.dy[i] + t * g.width + c);
      }
    }
#pragma unroll
    for (int r = 0; r < kBackwardRows; ++r) {
      if (top - r < begin) continue;
      first[r] = g.sequences.offsets[sequence[r]];
      past[r] = g.sequences.offsets[sequence[r] + 1];
    }
#pragma unroll
    for (int r = 0; r < kBackwardRows; ++r) {
      const int64_t t = top - r;
      if (t < begin) continue;
      float before[kPack], dx[kPack];
      if (t == first[r]) {
        load_state(g.last_in, g.sequences.slot_in[sequence[r]], c, before);
      } else {
#pragma unroll
        for (int k = 0; k < kPack; ++k) before[k] = to_float(x_before[r].values[k]);
      }
      if (t + 1 == past[r]) {
        load_state(g.dlast_out, g.sequences.slot_out[sequence[r]], c, dx);
      } else {
#pragma unroll
        for (int k = 0; k < kPack; ++k) dx[k] = later[k];
      }
#pragma unroll
      for (int k = 0; k < kPack; ++k) later[k] = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if ((kCount == kMaxMixes && i >= g.count) || g.dy[i] == nullptr) continue;
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const float dy = to_float(dys[r][i].values[k]);
          dx[k] = fmaf(mix[i][k], dy, dx[k]);
          later[k] = fmaf(1 - mix[i][k], dy, later[k]);
          dmix[i][k] = fmaf(dy, now[k] - before[k], dmix[i][k]);
        }
      }
      write_gradient(g.dx, t * g.width + c, dx);
      // Not `before`, which may be a state.
#pragma unroll
      for (int k = 0; k < kPack; ++k) now[k] = t > 0 ? to_float(x_before[r].values[k]) : 0.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (kCount == kMaxMixes && i >= g.count) continue;
    store_pack(g.shares + (int64_t{blockIdx.x} * g.count + i) * g.width + c, dmix[i]);
  }
}

// The gradient of the initial state of each sequence that has tokens. After the backward, which
// reads the gradients of the states left behind: they may be the same memory.
template <class T>
__global__ void __launch_bounds__(kBorderThreads)
    initial_gradient_kernel(const __grid_constant__ Backward<T> g) {
  for (int r = 0; r < kBorderRows; ++r) {
    const int64_t t = int64_t{blockIdx.x} * kBorderRows + r;
    if (t >= g.rows) return;
    const int64_t sequence = g.sequences.of_row[t], slot = g.sequences.slot_in[sequence];
    if (g.sequences.offsets[sequence] != t || slot < 0) continue;
    for (int64_t c = threadIdx.x; c < g.width; c += kBorderThreads) {
      float sum = 0;
      for (int i = 0; i < g.count; ++i) {
        if (g.dy[i] == nullptr) continue;
        sum = fmaf(1 - g.mix[i][c], to_float(g.dy[i][t * g.width + c]), sum);
      }
      g.dlast_in.at(slot, c) = sum;
    }
  }
}

unsigned border_blocks(int64_t rows) { return static_cast<unsigned>(ceil_div(rows, kBorderRows)); }

// Calls body(kPack, kCount) as integral constants. With many mixes the packs are of four: registers
// hold no more.
template <class T, class Body>
void with_shape(int count, int64_t width, bool aligned, const Body& body) {
  constexpr int kPack = kPackOf<T>;
  const auto with_count = [&](auto pack, auto pack_of_many) {
    switch (count) {
      case 1:
        return body(pack, std::integral_constant<int, 1>());
      case 2:
        return body(pack, std::integral_constant<int, 2>());
      case 3:
        return body(pack, std::integral_constant<int, 3>());
      default:
        return body(pack_of_many, std::integral_constant<int, kMaxMixes>());
    }
  };
  if (aligned && width % kPack == 0) {
    with_count(std::integral_constant<int, kPack>(), std::integral_constant<int, 4>());
  } else {
    with_count(std::integral_constant<int, 1>(), std::integral_constant<int, 1>());
  }
}

}  // namespace

void token_shift_forward(const TokenShiftForward& g, Context& ctx) {
  const int64_t rows = g.x.rows(), width = g.mix[0].count();
  if (rows > 0 && width > 0) {
    with_type(g.x.dtype, "token_shift", [&](auto type) {
      using T = decltype(type);
      Forward<T> args{.count = g.count,
                      .x = static_cast<const T*>(g.x.data),
                      .sequences = DeviceSequences(g.sequences),
                      .last_in = DeviceState(g.last_in),
                      .last_out = DeviceState(g.last_out),
                      .rows = rows,
                      .width = width,
                      .keeps_state = g.last_out && rows <= kForwardRows};
      bool aligned = all_aligned(g.x.data);
      for (int i = 0; i < g.count; ++i) {
        args.mix[i] = static_cast<const float*>(g.mix[i].data);
        args.y[i] = static_cast<T*>(g.y[i].data);
        aligned = aligned && all_aligned(args.mix[i], args.y[i]);
      }
      with_shape<T>(g.count, width, aligned, [&](auto pack, auto count) {
        const RowShape row(width, pack());
        const dim3 grid(static_cast<unsigned>(ceil_div(rows, kForwardRows)), row.blocks);
        cuda::launch("token_shift", forward_kernel<T, pack(), count()>, grid, row.threads, ctx,
                     args);
      });
      if (g.last_out && !args.keeps_state) {
        // Of many rows few are last: then a block takes all channels.
        const auto slices = rows > 1024 ? 1 : ceil_div(width, kBorderThreads);
        const dim3 grid(border_blocks(rows), static_cast<unsigned>(slices));
        cuda::launch("token_shift", keep_last_kernel<T>, grid, kBorderThreads, ctx, args);
      }
    });
  }
  if (g.last_out) {
    pass_states(ctx, "token_shift", g.sequences, g.sequences.slot_in, g.sequences.slot_out,
                {{{DeviceState(g.last_in), DeviceState(g.last_out)}}}, 1, width);
  }
}

void token_shift_backward(const TokenShiftBackward& g, Context& ctx) {
  const TokenShiftForward& f = g.forward;
  const int64_t rows = f.x.rows(), width = f.mix[0].count();
  const ArenaScope scope(*ctx.arena);
  float* shares = nullptr;
  int64_t count_of_shares = 0;
  if (rows > 0 && width > 0) {
    with_type(f.x.dtype, "token_shift", [&](auto type) {
      using T = decltype(type);
      Backward<T> args{.count = f.count,
                       .x = static_cast<const T*>(f.x.data),
                       .dx = GradientOut<T>(g.dx),
                       .sequences = DeviceSequences(f.sequences),
                       .last_in = DeviceState(f.last_in),
                       .dlast_out = DeviceState(g.dlast_out),
                       .dlast_in = DeviceState(g.dlast_in),
                       .rows = rows,
                       .width = width};
      bool aligned = all_aligned(f.x.data, g.dx.data);
      for (int i = 0; i < f.count; ++i) {
        args.mix[i] = static_cast<const float*>(f.mix[i].data);
        args.dy[i] = static_cast<const T*>(g.dy[i].data);
        aligned = aligned && all_aligned(args.mix[i], args.dy[i]);
      }
      with_shape<T>(f.count, width, aligned, [&](auto pack, auto count) {
        const RowShape row(width, pack());
        // About 640 threads on every multiprocessor, and shares of at least eight rows.
        const int64_t of_row = int64_t{row.threads} * row.blocks;
        const int64_t most = std::max<int64_t>(1, device_info(ctx).multiprocessors * 640 / of_row);
        count_of_shares = std::min(most, ceil_div(rows, 8));
        args.shares = shares = static_cast<float*>(
            ctx.arena->allocate(count_of_shares * f.count * width * sizeof(float)));
        const dim3 grid(static_cast<unsigned>(count_of_shares), row.blocks);
        backward_kernel<T, pack(), count()><<<grid, row.threads, 0, stream(ctx)>>>(args);
      });
      check_launch("token_shift backward");
      if (g.dlast_in) {
        initial_gradient_kernel<T><<<border_blocks(rows), kBorderThreads, 0, stream(ctx)>>>(args);
        check_launch("token_shift backward");
      }
    });
  }
  ShareSums sums;
  for (int i = 0; i < f.count; ++i) sums.set(i, g.dmix[i]);
  add_shares(ctx, "token_shift backward", shares, count_of_shares, f.count, width, sums);
  if (g.dlast_in) {
    pass_states(ctx, "token_shift backward", f.sequences, f.sequences.slot_out, f.sequences.slot_in,
                {{{DeviceState(g.dlast_out), DeviceState(g.dlast_in)}}}, 1, width);
  }
}

}  // namespace rookery::cuda
