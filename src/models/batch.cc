#include "models/batch.h"

#include <algorithm>

#include "core/error.h"

namespace rookery {

void Batch::add(std::span<const int32_t> sequence, int64_t in, int64_t out) {
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  offsets.push_back(rows());
  slot_in.push_back(in);
  slot_out.push_back(out);
}

void Batch::clear() {
  tokens.clear();
  targets.clear();
  offsets.assign(1, 0);
  slot_in.clear();
  slot_out.clear();
  wanted.clear();
  window = 0;
}

bool PlacedBatch::stage(const Batch& batch, int64_t vocabulary, const Context& ctx) {
  for (int64_t t = 0; t < batch.rows(); ++t) {
    check(batch.tokens[t] >= 0 && batch.tokens[t] < vocabulary) ||
        fail("token {} at position {} is outside the vocabulary of {} (0 to {})", batch.tokens[t],
             t, vocabulary, vocabulary - 1);
    if (batch.targets.empty()) continue;
    check(batch.targets[t] < vocabulary) ||
        fail("target token {} at position {} is not below the vocabulary's size {}",
             batch.targets[t], t, vocabulary);
  }
  const int64_t rows = batch.rows(), count = batch.count();
  const auto wanted_count = static_cast<int64_t>(batch.wanted.size());
  check(wanted_count <= rows) ||
      fail("logits of {} rows are wanted of a batch of {}", wanted_count, rows);
  for (const int32_t row : batch.wanted) {
    check(row >= 0 && row < rows) ||
        fail("logits of row {} are wanted of a batch of {} rows", row, rows);
  }
  ctx.wait();
  bool moved = rows != rows_ || ctx.device != device_;
  if (moved || count > capacity_) {
    // Room for twice as many sequences: where documents end differs from batch to batch.
    capacity_ = std::max<int64_t>(2 * count, 16);
    moved = true;
  }
  rows_ = rows;
  device_ = ctx.device;
  int64_t end = 0;
  const auto take = [&](int64_t size) { return Mirror::advance(end, size); };
  const int64_t tokens = take(rows * 4), targets = take(rows * 4), of_row = take(rows * 4);
  const int64_t offsets = take((capacity_ + 1) * 8), in = take(capacity_ * 8);
  const int64_t out = take(capacity_ * 8);
  bytes_ = end + wanted_count * 4;  // training wants none, and sends none
  const int64_t wanted = take(rows * 4);
  moved |= mirror_.reserve(ctx.device, end);
  std::copy(batch.tokens.begin(), batch.tokens.end(), mirror_.at<int32_t>(tokens));
  std::copy(batch.targets.begin(), batch.targets.end(), mirror_.at<int32_t>(targets));
  for (int64_t s = 0; s < count; ++s) {
    std::fill(mirror_.at<int32_t>(of_row) + batch.offsets[s],
              mirror_.at<int32_t>(of_row) + batch.offsets[s + 1], static_cast<int32_t>(s));
  }
  std::copy(batch.offsets.begin(), batch.offsets.end(), mirror_.at<int64_t>(offsets));
  std::copy(batch.slot_in.begin(), batch.slot_in.end(), mirror_.at<int64_t>(in));
  std::copy(batch.slot_out.begin(), batch.slot_out.end(), mirror_.at<int64_t>(out));
  std::copy(batch.wanted.begin(), batch.wanted.end(), mirror_.at<int32_t>(wanted));
  tokens_ = mirror_.mirrored<int32_t>(tokens);
  targets_ = mirror_.mirrored<int32_t>(targets);
  wanted_ = mirror_.mirrored<int32_t>(wanted);
  wanted_count_ = wanted_count;
  sequences_ = {count,
                mirror_.mirrored<int64_t>(offsets),
                mirror_.mirrored<int64_t>(in),
                mirror_.mirrored<int64_t>(out),
                mirror_.mirrored<int32_t>(of_row).device,
                batch.window};
  return moved;
}

void PlacedBatch::send(const Context& ctx) const { mirror_.send(ctx, bytes_); }

}  // namespace rookery
