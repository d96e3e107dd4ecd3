// WKV-4 on the GPU, backward: in parallel over time, from the end; wkv4_cuda.cuh says how.
#include "ops/wkv4/wkv4_cuda.cuh"

namespace rookery::cuda {
namespace wkv4 {
namespace {

template <class T>
struct BackwardArgs {
  ForwardArgs<T> forward;
  const T* dy;
  T *dk, *dv;
  bool accumulate_dk, accumulate_dv;
  DeviceState da_out, db_out, da_in, db_in;
  float* partial;  // [blocks, 2, A] shares of dw and du

  BackwardArgs(const Wkv4Backward& g, float* partial)
      : forward(g.forward),
        dy(static_cast<const T*>(g.dy.data)),
        dk(static_cast<T*>(g.dk.data)),
        dv(static_cast<T*>(g.dv.data)),
        accumulate_dk(g.dk.accumulate),
        accumulate_dv(g.dv.accumulate),
        da_out(g.da_out),
        db_out(g.db_out),
        da_in(g.da_in),
        db_in(g.db_in),
        partial(partial) {}
};

template <class T>
__global__ void pass_state_gradients_kernel(const BackwardArgs<T> g) {
  const int c = static_cast<int>(blockIdx.x * kWalkThreads + threadIdx.x);
  const int64_t s = blockIdx.y;
  const DeviceSequences& sequences = g.forward.sequences;
  if (c >= g.forward.width || sequences.offsets[s] != sequences.offsets[s + 1]) return;
  const int64_t in = sequences.slot_in[s];
  const int64_t out = g.da_out.data != nullptr ? sequences.slot_out[s] : -1;
  if (in < 0) return;
  g.da_in.at(in, c) = out < 0 ? 0.0f : g.da_out.at(out, c);
  g.db_in.at(in, c) = out < 0 ? 0.0f : g.db_out.at(out, c);
}

// Between these a number has a power of two that can be taken out of it, and its inverse too.
constexpr float kSmallest = 0x1p-120f, kLargest = 0x1p120f;

struct BackwardShared {
  // Of each row, where rows are read again: the exponent of its denominator, dy / denominator, y.
  // A lane's own, like all below.
  float rows[kWarps][kTile][3][kChannels];
  float before[kWarps][3][kChannels];  // the state before a warp's rows
  float sums[kWarps][2][kChannels];    // of dw and du
};

// The gradient of a sequence's final state: a and b are given in the gauge p.
template <class T>
__device__ __forceinline__ Scaled gradient_after(const BackwardArgs<T>& g, int sequence,
                                                 const Lane& lane) {
  Scaled s;
  const int64_t slot = g.da_out.data != nullptr ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot >= 0) {
    load_floats(&g.da_out.at(slot, 0), lane, s.a);
    load_floats(&g.db_out.at(slot, 0), lane, s.b);
    load_exponents(&g.forward.p_out.at(slot, 0), lane, s.p);
    s.p[0] = -s.p[0], s.p[1] = -s.p[1];
  }
  return s;
}
// The product of a sequence's final state and its gradient.
template <class T>
__device__ __forceinline__ void product_after(const BackwardArgs<T>& g, int sequence,
                                              const Lane& lane, float (&x)[2]) {
  x[0] = x[1] = 0.0f;
  const int64_t slot = g.da_out.data != nullptr ? g.forward.sequences.slot_out[sequence] : -1;
  if (slot < 0) return;
  float a[2], b[2], da[2], db[2];
  load_floats(&g.da_out.at(slot, 0), lane, da);
  load_floats(&g.db_out.at(slot, 0), lane, db);
  load_floats(&g.forward.a_out.at(slot, 0), lane, a);
  load_floats(&g.forward.b_out.at(slot, 0), lane, b);
#pragma unroll
  for (int j = 0; j < 2; ++j) x[j] = fmaf(a[j], da[j], b[j] * db[j]);
}
template <class T>
__device__ __forceinline__ void leave_gradient(const BackwardArgs<T>& g, int sequence,
                                               const Lane& lane, const Scaled& gradient) {
  const int64_t slot = g.da_in.data != nullptr ? g.forward.sequences.slot_in[sequence] : -1;
  if (slot < 0) return;
  float p[2], da[2], db[2];
  load_exponents(&g.forward.p_in.at(slot, 0), lane, p);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float scale = exp2_fast(gradient.p[j] + p[j]);
    da[j] = gradient.a[j] * scale;
    db[j] = gradient.b[j] * scale;
  }
  store_floats(&g.da_in.at(slot, 0), lane, da);
  store_floats(&g.db_in.at(slot, 0), lane, db);
}

// From the state before any rows of a warp to that after them, reading them again. Fills `rows`
// [kTile, 3, kChannels] if kKeep; `part` is what the outputs, up to the first end of a sequence,
// add to the gradient of the state before the rows.
template <bool kKeep, bool kVector, class T>
__device__ __forceinline__ void forward_any(const BackwardArgs<T>& g, const float (&w)[2],
                                            const float (&u)[2], const Borders& borders, int row,
                                            int64_t at, const Lane& lane, int lane_id, float* rows,
                                            Scaled& state, Scaled& part) {
  const int32_t* of_row = g.forward.sequences.of_row;
  bool ended = false;
#pragma unroll 1
  for (int i = 0; i < borders.count; ++i) {
    if (borders.starts_at(i)) state = state_before(g.forward, of_row[row + i], lane);
    const int64_t here = at + int64_t{g.forward.width} * i;
    float kt[2], vt[2], dyt[2], q[2], r[2], yt[2];
    load_row<kVector>(g.forward.k + here, lane, true).get(kt);
    load_row<kVector>(g.forward.v + here, lane, true).get(vt);
    load_row<kVector>(g.dy + here, lane, true).get(dyt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const ScaledPair e = scale_pair(state.p[j], fmaf(kt[j], kLog2E, u[j]));
      const float inverse = reciprocal(fmaf(e.x, state.b[j], e.y));
      q[j] = e.maximum;
      yt[j] = fmaf(e.x, state.a[j], e.y * vt[j]) * inverse;
      r[j] = dyt[j] * inverse;
      advance(state, j, w[j], kt[j] * kLog2E, vt[j]);
      if (ended) continue;
      const ScaledPair sum = scale_pair(part.p[j], fmaf(static_cast<float>(i), w[j], -q[j]));
      const float share = sum.y * r[j];
      part.a[j] = fmaf(sum.x, part.a[j], share);
      part.b[j] = fmaf(sum.x, part.b[j], -share * yt[j]);
      part.p[j] = sum.maximum;
    }
    if (kKeep) {
      put(rows + (3 * i) * kChannels, lane_id, q);
      put(rows + (3 * i + 1) * kChannels, lane_id, r);
      put(rows + (3 * i + 2) * kChannels, lane_id, yt);
    }
    if (borders.ends_at(i) && !ended) {
      part = combine(gradient_after(g, of_row[row + i], lane), w, static_cast<float>(i + 1), part);
      ended = true;
    }
  }
}
// Of a row of a fast tile: dy / denominator (in the scale 2^-top), y.
struct Swept {
  float r[kTile][2], y[kTile][2];
};
// The same through a fast tile; the state comes out in the scale 2^top.
template <class T>
__device__ __forceinline__ void forward_tile(const Tile<kTile, T>& tile, const Raw<T> (&dy)[kTile],
                                             const float (&w)[2], const float (&u)[2],
                                             Scaled& state, Swept& swept, Scaled& part) {
  float bonus[2], decay[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float scale = exp2_fast(state.p[j] - tile.top[j]);
    state.a[j] *= scale, state.b[j] *= scale, state.p[j] = tile.top[j];
    bonus[j] = exp2_fast(u[j]), decay[j] = exp2_fast(w[j]);
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float vt[2], dyt[2];
    tile.v[i].get(vt), dy[i].get(dyt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = tile.e[i][j], now = bonus[j] * e;
      const float inverse = reciprocal(state.b[j] + now);
      swept.y[i][j] = fmaf(now, vt[j], state.a[j]) * inverse;
      swept.r[i][j] = dyt[j] * inverse;
      state.a[j] = fmaf(decay[j], state.a[j], e * vt[j]);
      state.b[j] = fmaf(decay[j], state.b[j], e);
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float a = 0.0f, b = 0.0f, p = -tile.top[j];
#pragma unroll
    for (int i = kTile - 1; i >= 0; --i) {
      const float r = swept.r[i][j];
      a = fmaf(decay[j], a, r);
      b = fmaf(decay[j], b, -r * swept.y[i][j]);
    }
    const float size = fmaxf(fabsf(a), fabsf(b));
    if (size >= kSmallest && size <= kLargest) {
      normalise(size, a, b, p);
    } else if (size < kSmallest) {
      a = b = 0.0f, p = kEmpty;
    }
    part.a[j] = a, part.b[j] = b, part.p[j] = p;
  }
}

// From the gradient of the state after a warp's rows to that before them.
//
// dw needs no states inside the rows. With G_i, S_i the gradient of and the state after row i of a
// run of n rows of one sequence, D_i = <G_i, e^w S_{i-1}> is row i's share of dw, and what row i
// adds to the state or takes from it ties neighbours:
//   <G_i, S_i> = D_i + K_i,   <G_{i-1}, S_{i-1}> = D_i + C_i,
// K_i being dk_i's part through the state, C_i = dy_i (A_{i-1} - y_i B_{i-1}) / denominator, which
// is -du_i as y_i is the weighted mean of old state and v_i. With dk_i = du_i + K_i,
//   sum_i D_i = n <G_{n-1}, S_{n-1}> - sum_i (i + 1) dk_i + sum_i du_i
//             = n <G_{-1}, S_{-1}> + sum_i (n - 1 - i) dk_i + sum_i du_i.
// A fast tile takes the second for its first half, so that less is multiplied and cancelled.
template <bool kVector, class T>
__device__ __forceinline__ void backward_any(const BackwardArgs<T>& g, const float (&w)[2],
                                             const float (&u)[2], const Borders& borders, int row,
                                             int64_t at, const Lane& lane, int lane_id,
                                             const float* rows, const Scaled& state,
                                             Scaled gradient, float (&dw)[2], float (&du)[2]) {
  const int32_t* of_row = g.forward.sequences.of_row;
  const int last = borders.count - 1;
#pragma unroll 1
  for (int i = last; i >= 0; --i) {
    // Rows of the run that ends here.
    const int start = max(borders.last_start(i), 0);
    const auto place = static_cast<float>(i + 1 - start);
    float product[2] = {0.0f, 0.0f};
    if (borders.ends_at(i)) {
      gradient = gradient_after(g, of_row[row + i], lane);
      product_after(g, of_row[row + i], lane, product);
    } else if (i == last) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        product[j] = fmaf(state.a[j], gradient.a[j], state.b[j] * gradient.b[j]) *
                     exp2_fast(state.p[j] + gradient.p[j]);
      }
    }
    const int64_t here = at + int64_t{g.forward.width} * i;
    float kt[2], vt[2], q[2], r[2], yt[2], dk[2], dv[2];
    load_row<kVector>(g.forward.k + here, lane, true).get(kt);
    load_row<kVector>(g.forward.v + here, lane, true).get(vt);
    get(rows + (3 * i) * kChannels, lane_id, q);
    get(rows + (3 * i + 1) * kChannels, lane_id, r);
    get(rows + (3 * i + 2) * kChannels, lane_id, yt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      // Through this output, and through the state after this row. All exponents are at most 0: the
      // gradient's is minus a later q, which this row's k, decayed, does not exceed.
      const float direct = r[j] * exp2_fast(fmaf(kt[j], kLog2E, u[j]) - q[j]);
      const float direct_k = direct * (vt[j] - yt[j]);
      const float stored = exp2_fast(fmaf(kt[j], kLog2E, gradient.p[j]));
      dk[j] = fmaf(stored, fmaf(gradient.a[j], vt[j], gradient.b[j]), direct_k);
      dv[j] = fmaf(stored, gradient.a[j], direct);
      du[j] += direct_k;
      dw[j] += fmaf(place, product[j] - dk[j], direct_k);
      const ScaledPair e = scale_pair(gradient.p[j] + w[j], -q[j]);
      const float share = e.y * r[j];
      gradient.a[j] = fmaf(e.x, gradient.a[j], share);
      gradient.b[j] = fmaf(e.x, gradient.b[j], -share * yt[j]);
      gradient.p[j] = e.maximum;
    }
    if (g.dk != nullptr) {
      store_gradient_row<kVector>(g.dk + here, lane, g.accumulate_dk, dk[0], dk[1]);
    }
    if (g.dv != nullptr) {
      store_gradient_row<kVector>(g.dv + here, lane, g.accumulate_dv, dv[0], dv[1]);
    }
    if (borders.starts_at(i)) leave_gradient(g, of_row[row + i], lane, gradient);
  }
}
// The same through a fast tile. `state` and `gradient` are those after it, in the scales 2^top and
// 2^-top; `before` [3, kChannels] is the state before it.
// kBoth: dk and dv are wanted, and are not added to what is there.
template <bool kBoth, bool kVector, class T>
__device__ __forceinline__ void backward_tile(const BackwardArgs<T>& g, const Tile<kTile, T>& tile,
                                              const Swept& swept, const float (&w)[2],
                                              const float (&u)[2], int64_t at, const Lane& lane,
                                              int lane_id, const float* before, const Scaled& state,
                                              Scaled& gradient, float (&dw)[2], float (&du)[2]) {
  constexpr int kHalf = kTile / 2;
  float bonus[2], decay[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    bonus[j] = exp2_fast(u[j]), decay[j] = exp2_fast(w[j]);
    dw[j] = (kTile - kHalf) * fmaf(state.a[j], gradient.a[j], state.b[j] * gradient.b[j]);
  }
#pragma unroll
  for (int i = kTile - 1; i >= 0; --i) {
    float vt[2], dk[2], dv[2];
    tile.v[i].get(vt);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float e = tile.e[i][j], r = swept.r[i][j], y = swept.y[i][j];
      const float direct = bonus[j] * r;
      const float direct_k = e * direct * (vt[j] - y);
      dk[j] = fmaf(e, fmaf(gradient.a[j], vt[j], gradient.b[j]), direct_k);
      dv[j] = e * (gradient.a[j] + direct);
      du[j] += direct_k;
      dw[j] = fmaf(static_cast<float>(kHalf - 1 - i), dk[j], dw[j]);
      gradient.a[j] = fmaf(decay[j], gradient.a[j], r);
      gradient.b[j] = fmaf(decay[j], gradient.b[j], -r * y);
    }
    const int64_t here = at + int64_t{g.forward.width} * i;
    if (kBoth || g.dk != nullptr) {
      store_gradient_row<kVector>(g.dk + here, lane, !kBoth && g.accumulate_dk, dk[0], dk[1]);
    }
    if (kBoth || g.dv != nullptr) {
      store_gradient_row<kVector>(g.dv + here, lane, !kBoth && g.accumulate_dv, dv[0], dv[1]);
    }
  }
  const Scaled first = Scaled::get(before, lane_id);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float product = fmaf(first.a[j], gradient.a[j], first.b[j] * gradient.b[j]);
    dw[j] = fmaf(kHalf * product, exp2_fast(first.p[j] + gradient.p[j]), dw[j] + du[j]);
  }
}

// Launch 1, over segments: the state before each tile, and what the tile's outputs, up to the first
// end of a sequence, add to the gradient of that state; a tile with an end is closed.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 4 : 3)
    wkv4_sweep_kernel(const BackwardArgs<T> g, int64_t segments, float* states, float* parts,
                      int* closed) {
  if (warp_index() >= segments) return;
  const ForwardArgs<T>& f = g.forward;
  const Place place(warp_index(), f.rows, f.width);
  const Lane& lane = place.lane;
  float w[2], u[2];
  load_decay(f.w, lane, w), load_exponents(f.u, lane, u);
  Scaled state;
  if (place.segment > 0) state = load_state(f.segment_states, place.segment, f.width, lane);
#pragma unroll 1
  for (int row = place.row; row < place.end; row += kTile) {
    const int64_t at = int64_t{row} * f.width + lane.c;
    const bool all_there = row + kTile <= f.rows;
    Raw<T> k[kTile], dy[kTile];
    Tile<kTile, T> tile;
    load_rows<kVector>(f.k + at, f.width, lane, all_there, k);
    load_rows<kVector>(f.v + at, f.width, lane, all_there, tile.v);
    load_rows<kVector>(g.dy + at, f.width, lane, all_there, dy);
    store_state(states, row / kTile, f.width, lane, state);
    const Borders borders = find_borders<kTile>(f.sequences.of_row, row, f.rows, place.lane_id);
    bool fast = find_top(k, u, tile.top) && borders.plain(kTile);
    if (fast && borders.starts_at(0)) state = state_before(f, f.sequences.of_row[row], lane);
    fast = fast && fits_under(state.p, tile.top);
    Scaled part;
    if (fast) {
      Swept swept;
      scale_rows(k, tile);
      forward_tile(tile, dy, w, u, state, swept, part);
      rescale(tile.top, false, tile.top, state);
      if (borders.ends_at(kTile - 1)) {
        part =
            combine(gradient_after(g, f.sequences.of_row[row + kTile - 1], lane), w, kTile, part);
      }
    } else {
      forward_any<false, kVector>(g, w, u, borders, row, at, lane, place.lane_id, nullptr, state,
                                  part);
    }
    store_state(parts, row / kTile, f.width, lane, part);
    if (place.lane_id == 0 && blockIdx.y == 0) closed[row / kTile] = borders.ends != 0 ? 1 : 0;
  }
}

// Launch 3, over tiles, from the last on: `states` before and gradients `after` each are known.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 3 : 2)
    wkv4_backward_kernel(const BackwardArgs<T> g, int64_t tiles, const float* states,
                         const float* after) {
  extern __shared__ float4 memory[];
  BackwardShared& shared = *reinterpret_cast<BackwardShared*>(memory);
  const ForwardArgs<T>& f = g.forward;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane_id = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t block = (tiles - 1) / kWarps - blockIdx.x, index = block * kWarps + warp;
  const Lane lane(static_cast<int>(blockIdx.y) * kChannels + 2 * lane_id, f.width);
  float dw[2] = {0.0f, 0.0f}, du[2] = {0.0f, 0.0f};
  if (index < tiles) {
    const int row = static_cast<int>(index) * kTile;
    const int64_t at = int64_t{row} * f.width + lane.c;
    const bool all_there = row + kTile <= f.rows;
    Raw<T> k[kTile], dy[kTile];
    Tile<kTile, T> tile;
    load_rows<kVector>(f.k + at, f.width, lane, all_there, k);
    load_rows<kVector>(f.v + at, f.width, lane, all_there, tile.v);
    load_rows<kVector>(g.dy + at, f.width, lane, all_there, dy);
    Scaled state = load_state(states, index, f.width, lane), gradient;
    // The last row of all ends a sequence: nothing comes from behind it.
    if (index + 1 < tiles) gradient = load_state(after, index, f.width, lane);
    const Borders borders = find_borders<kTile>(f.sequences.of_row, row, f.rows, lane_id);
    float w[2], u[2];
    load_decay(f.w, lane, w), load_exponents(f.u, lane, u);
    float* rows = shared.rows[warp][0][0];
    float* before = shared.before[warp][0];
    if (borders.starts_at(0)) state = state_before(f, f.sequences.of_row[row], lane);
    state.put(before, lane_id);
    bool fast = find_top(k, u, tile.top) && borders.plain(kTile) && fits_under(state.p, tile.top);
    if (fast && borders.ends_at(kTile - 1)) {
      gradient = gradient_after(g, f.sequences.of_row[row + kTile - 1], lane);
    }
    const float scale[2] = {-tile.top[0], -tile.top[1]};
    fast = fast && fits_under(gradient.p, scale);
    Scaled part;  // known already
    if (fast) {
      Swept swept;
      scale_rows(k, tile);
      forward_tile(tile, dy, w, u, state, swept, part);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float factor = exp2_fast(gradient.p[j] - scale[j]);
        gradient.a[j] *= factor, gradient.b[j] *= factor, gradient.p[j] = scale[j];
      }
      if (kVector && !lane.in[0]) {
        // Nothing to store: asked once, not at every store.
      } else if (g.dk != nullptr && g.dv != nullptr && !g.accumulate_dk && !g.accumulate_dv) {
        backward_tile<true, kVector>(g, tile, swept, w, u, at, lane, lane_id, before, state,
                                     gradient, dw, du);
      } else {
        backward_tile<false, kVector>(g, tile, swept, w, u, at, lane, lane_id, before, state,
                                      gradient, dw, du);
      }
      if (borders.starts_at(0)) leave_gradient(g, f.sequences.of_row[row], lane, gradient);
    } else {
      forward_any<true, kVector>(g, w, u, borders, row, at, lane, lane_id, rows, state, part);
      backward_any<kVector>(g, w, u, borders, row, at, lane, lane_id, rows, state, gradient, dw,
                            du);
    }
  }
  put(shared.sums[warp][0], lane_id, dw);
  put(shared.sums[warp][1], lane_id, du);
  __syncthreads();
  if (warp < 2) {  // one sums dw, one du
    float sum[2] = {0.0f, 0.0f};
    for (int i = 0; i < kWarps; ++i) {
      float x[2];
      get(shared.sums[i][warp], lane_id, x);
      sum[0] += x[0], sum[1] += x[1];
    }
    store_floats(g.partial + (2 * block + warp) * f.width, lane, sum);
  }
}

// Sums of partial [blocks, 2, A], always in the same order.
constexpr int kSumRows = 32;
__global__ void __launch_bounds__(kWarp* kSumRows)
    wkv4_sum_kernel(const float* partial, int64_t count, int64_t width, float* dw,
                    bool accumulate_dw, float* du, bool accumulate_du) {
  __shared__ float sums[kSumRows][kWarp];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  float sum = 0.0f;
  for (int64_t s = threadIdx.y; s < count && c < width; s += kSumRows) {
    sum += partial[(2 * s + blockIdx.y) * width + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float* gradient = blockIdx.y == 0 ? dw : du;
  if (threadIdx.y != 0 || c >= width || gradient == nullptr) return;
  sum = (blockIdx.y == 0 ? accumulate_dw : accumulate_du) ? gradient[c] : 0.0f;
  for (int i = 0; i < kSumRows; ++i) sum += sums[i][threadIdx.x];
  gradient[c] = sum;
}

template <class T>
void backward(const Wkv4Backward& g, Context& ctx) {
  check_size(g.forward);
  const int64_t rows = g.forward.k.rows(), width = g.forward.w.count();
  if (width == 0) return;
  const ArenaScope scope(*ctx.arena);
  const int64_t segments = ceil_div(rows, kSegment), tiles = ceil_div(rows, kTile);
  const int64_t blocks = ceil_div(tiles, kWarps);
  const auto floats = [&](int64_t count) {
    return static_cast<float*>(ctx.arena->allocate(count * 4));
  };
  float* const partial = floats(blocks * 2 * width);
  const BackwardArgs<T> args(g, partial);
  if (g.da_in && has_empty(g.forward.sequences)) {
    pass_state_gradients_kernel<<<pass_grid(width, g.forward.sequences), kWalkThreads, 0,
                                  stream(ctx)>>>(args);
    check_launch("wkv4.backward");
  }
  if (rows > 0) {
    float* const states = floats(tiles * 3 * width);
    float* const parts = floats(tiles * 3 * width);
    float* const after = floats(tiles * 3 * width);
    auto* const closed = static_cast<int*>(ctx.arena->allocate(tiles * 4));
    const bool vector = width % 2 == 0 && is_paired(g.forward.k) && is_paired(g.forward.v) &&
                        is_paired(g.dy) && is_paired(g.dk) && is_paired(g.dv);
    const auto groups = static_cast<unsigned>(ceil_div(width, kChannels));
    const auto sweep = vector ? wkv4_sweep_kernel<T, true> : wkv4_sweep_kernel<T, false>;
    const dim3 by_segment(static_cast<unsigned>(ceil_div(segments, kWarps)), groups);
    sweep<<<by_segment, kThreads, 0, stream(ctx)>>>(args, segments, states, parts, closed);
    check_launch("wkv4.backward");
    carry<-1>(args.forward.w, parts, closed, tiles, width, kTile, after, ctx);
    const auto kernel = vector ? wkv4_backward_kernel<T, true> : wkv4_backward_kernel<T, false>;
    constexpr int kBytes = static_cast<int>(sizeof(BackwardShared));
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "wkv4.backward: shared memory");
    const dim3 by_tile(static_cast<unsigned>(blocks), groups);
    kernel<<<by_tile, kThreads, kBytes, stream(ctx)>>>(args, tiles, states, after);
    check_launch("wkv4.backward");
  }
  if (g.dw || g.du) {
    const dim3 grid(static_cast<unsigned>(ceil_div(width, kWarp)), 2), threads(kWarp, kSumRows);
    wkv4_sum_kernel<<<grid, threads, 0, stream(ctx)>>>(
        partial, blocks, width, static_cast<float*>(g.dw.data), g.dw.accumulate,
        static_cast<float*>(g.du.data), g.du.accumulate);
    check_launch("wkv4.backward");
  }
}

}  // namespace
}  // namespace wkv4

void wkv4_backward(const Wkv4Backward& g, Context& ctx) {
  with_type(g.forward.k.dtype, "wkv4.backward",
            [&](auto type) { wkv4::backward<decltype(type)>(g, ctx); });
}

}  // namespace rookery::cuda
