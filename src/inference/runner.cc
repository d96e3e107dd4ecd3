#include "inference/runner.h"

#include <algorithm>

#include "core/error.h"

namespace rookery {
namespace {

// One token of each sequence, and the logits of all.
bool is_step(const Batch& batch) {
  if (batch.count() != batch.rows() || std::ssize(batch.wanted) != batch.rows()) return false;
  for (int64_t s = 0; s < batch.count(); ++s) {
    if (batch.offsets[s + 1] - batch.offsets[s] != 1 || batch.wanted[s] != s) return false;
  }
  return true;
}

}  // namespace

ModelRunner::ModelRunner(const Model& model, ThreadPool& pool, int64_t slots, bool deterministic)
    : model_(model),
      states_(model.state_layout(), slots, DType::kF32, model.device()),
      arena_(memory_of(model.device())) {
  ctx_.use(model.device(), model.activation_type());
  ctx_.pool = &pool;
  ctx_.arena = &arena_;
  ctx_.deterministic = deterministic;
}

Tensor ModelRunner::forward(const Batch& batch) {
  is_step_ = is_step(batch);
  PlacedBatch& placed = is_step_ ? step_ : placed_;
  if (placed.stage(batch, model_.config().vocabulary, ctx_) && is_step_) captured_.reset();
  placed.send(ctx_);
  return repeat();
}

Tensor ModelRunner::repeat() {
  const PlacedBatch& placed = is_step_ ? step_ : placed_;
  Tensor& logits = is_step_ ? step_logits_ : logits_;
  const auto work = [&] {
    arena_.reset();
    const Tensor x = model_.forward(ctx_, placed, {.state_in = &states_, .state_out = &states_});
    logits = {};
    if (placed.wanted_count() == 0) return;
    logits = model_.logits(ctx_, x, placed.wanted(), placed.wanted_count());
  };
  if (is_step_) {
    captured_.run(ctx_, work);
  } else {
    work();
  }
  return logits;
}

void ModelRunner::forward(const Batch& batch, const TakeLogits& take) {
  placed_.stage(batch, model_.config().vocabulary, ctx_);
  placed_.send(ctx_);
  arena_.reset();
  const Tensor x = model_.forward(ctx_, placed_, {.state_in = &states_, .state_out = &states_});
  const int64_t row_bytes = model_.config().vocabulary * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::max<int64_t>(1, kLogitsBytes / row_bytes);
  const Mirrored<int32_t> wanted = placed_.wanted();
  for (int64_t first = 0; first < placed_.wanted_count(); first += most) {
    const int64_t count = std::min(most, placed_.wanted_count() - first);
    const Mirrored<int32_t> rows(wanted.host + first,
                                 wanted.device == nullptr ? nullptr : wanted.device + first);
    const ArenaScope scope(arena_);
    take(first, on_host(model_.logits(ctx_, x, rows, count)));
  }
}

std::span<const float> ModelRunner::on_host(const Tensor& logits) {
  if (ctx_.device != Device::kCuda) {
    return {logits.as<float>(), static_cast<size_t>(logits.count())};
  }
  if (host_logits_.bytes() < logits.bytes()) {
    host_logits_ = Memory(logits.bytes(), host_memory_of(ctx_.device));
  }
  ctx_.copy(host_logits_.data(), logits.data, logits.bytes());
  ctx_.wait();
  return {static_cast<const float*>(host_logits_.data()), static_cast<size_t>(logits.count())};
}

const State& ModelRunner::states() const {
  ctx_.wait();
  return states_;
}

void ModelRunner::copy_slot(int64_t from, int64_t to) {
  ctx_.wait();
  states_.copy_slot(from, to);
}

void ModelRunner::clear_slot(int64_t slot) {
  ctx_.wait();
  states_.clear(slot);
}

void ModelRunner::set_states(const State& states) {
  check(states.slot_bytes() == states_.slot_bytes() && states.slots() == states_.slots()) ||
      fail("{} states of {} bytes do not fit: expected {}, of {} bytes each for this model",
           states.slots(), states.slot_bytes(), states_.slots(), states_.slot_bytes());
  ctx_.wait();
  states_.copy_from(states);  // in place: a recorded graph knows the address
}

}  // namespace rookery
