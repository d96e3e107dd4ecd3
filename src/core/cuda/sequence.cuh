// Sequences and their recurrent states as kernels see them, and what holds for every recurrent
// operator. Only .cu files include this.
#pragma once

#include <algorithm>

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

// The sequences as kernels read them.
struct DeviceSequences {
  const int64_t *offsets, *slot_in, *slot_out;
  const int32_t* of_row;

  explicit DeviceSequences(const Sequences& s)
      : offsets(s.offsets.device),
        slot_in(s.slot_in.device),
        slot_out(s.slot_out.device),
        of_row(s.sequence_of_row) {}
};
// A state of one item, float32: element c of slot s.
struct DeviceState {
  float* data = nullptr;
  int64_t stride = 0;

  DeviceState() = default;
  explicit DeviceState(const StateView& s) : data(static_cast<float*>(s.data)), stride(s.stride) {}
  __device__ float& at(int64_t slot, int64_t c) const { return data[slot * stride + c]; }
};

// No sequence has more rows.
inline int64_t longest(const Sequences& sequences) {
  int64_t rows = sequences.window;
  if (rows > 0) return rows;
  for (int64_t s = 0; s < sequences.count; ++s) {
    rows = std::max(rows, sequences.offsets[s + 1] - sequences.offsets[s]);
  }
  return rows;
}

// Whether a sequence has no tokens: the kernels find sequences by their rows and do not see it.
inline bool has_empty(const Sequences& sequences) {
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.offsets[s] == sequences.offsets[s + 1]) return true;
  }
  return false;
}

// One item of the states of sequences without tokens: it goes from a slot to another, or is `empty`
// where there is no slot to come from.
struct PassedItem {
  DeviceState from, to;
  float empty = 0;
};
struct PassedItems {
  static constexpr int kMost = 4;

  PassedItem item[kMost];
};
constexpr int kPassThreads = 128;

// Channels along x of the grid, sequences along y, items along z.
static __global__ void __launch_bounds__(kPassThreads)
    pass_states_kernel(const int64_t* offsets, const int64_t* from_slots, const int64_t* to_slots,
                       const __grid_constant__ PassedItems items, int64_t width) {
  const int64_t c = int64_t{blockIdx.x} * kPassThreads + threadIdx.x, s = blockIdx.y;
  if (c >= width || offsets[s] != offsets[s + 1] || to_slots[s] < 0) return;
  const PassedItem& item = items.item[blockIdx.z];
  const int64_t from = item.from.data == nullptr ? -1 : from_slots[s];
  item.to.at(to_slots[s], c) = from < 0 ? item.empty : item.from.at(from, c);
}

// For each sequence without tokens, which the other kernels do not see: passes `count` items of
// `width` from its slot in from_slots to that in to_slots. -1: comes from nowhere, or goes nowhere.
inline void pass_states(const Context& ctx, const char* op, const Sequences& sequences,
                        const Mirrored<int64_t>& from_slots, const Mirrored<int64_t>& to_slots,
                        const PassedItems& items, int count, int64_t width) {
  if (width == 0 || !has_empty(sequences)) return;
  check(sequences.count < 65536) ||
      fail("{}: {} sequences, one call takes at most 65535 on the GPU", op, sequences.count);
  const dim3 grid(static_cast<unsigned>(ceil_div(width, kPassThreads)),
                  static_cast<unsigned>(sequences.count), static_cast<unsigned>(count));
  pass_states_kernel<<<grid, kPassThreads, 0, stream(ctx)>>>(
      sequences.offsets.device, from_slots.device, to_slots.device, items, width);
  check_launch(op);
}

}  // namespace rookery::cuda
