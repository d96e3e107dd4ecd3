#include "inference/session.h"

#include <algorithm>
#include <numeric>

namespace rookery {

Session::Session(const Model& model, ThreadPool& pool, bool deterministic)
    : model_(model),
      state_(model.state_layout(), 1, DType::kF32, model.device()),
      arena_(memory_of(model.device())) {
  ctx_.use(model.device(), model.activation_type());
  ctx_.pool = &pool;
  ctx_.arena = &arena_;
  ctx_.deterministic = deterministic;
}

void Session::check_ids(std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens) {
    check(token >= 0 && token < model_.config().vocabulary,
          "token {} is not in the vocabulary: this model has tokens 0 to {}", token,
          model_.config().vocabulary - 1);
  }
}

Tensor Session::forward(std::span<const int32_t> tokens, bool all) {
  arena_.reset();
  batch_.clear();
  batch_.add(tokens, 0, 0);
  placed_.stage(batch_, model_.config().vocabulary, ctx_.device);
  placed_.send();
  const Tensor x = model_.forward(ctx_, placed_, {.state_in = &state_, .state_out = &state_});
  position_ += x.rows();
  std::vector<int64_t> rows(all ? x.rows() : 1, x.rows() - 1);
  if (all) std::iota(rows.begin(), rows.end(), 0);
  return model_.logits(ctx_, x, rows);
}

Tensor Session::forward_one(int32_t token) {
  const bool plain = ctx_.device != Device::kCuda || ctx_.checker != nullptr ||
                     ctx_.profile != nullptr || single_steps_++ == 0;
  if (plain) return forward(std::span(&token, 1), false);
  batch_.clear();
  batch_.add(std::span(&token, 1), 0, 0);
  if (one_.stage(batch_, model_.config().vocabulary, ctx_.device)) graph_.reset();
  one_.send();
  if (!graph_.recorded()) {
    arena_.reset();
    graph_.begin();
    try {
      const Tensor x = model_.forward(ctx_, one_, {.state_in = &state_, .state_out = &state_});
      const int64_t row = 0;
      graph_logits_ = model_.logits(ctx_, x, std::span(&row, 1));
    } catch (...) {
      graph_.abandon();
      throw;
    }
    graph_.end();
  }
  graph_.launch();
  ++position_;
  return graph_logits_;
}

std::span<const float> Session::on_host(const Tensor& logits) {
  if (ctx_.device != Device::kCuda) {
    return {logits.as<float>(), static_cast<size_t>(logits.count())};
  }
  if (host_logits_.bytes() < logits.bytes()) {
    host_logits_ = Memory(logits.bytes(), MemoryKind::kPinned);
  }
  cuda::copy(host_logits_.data(), logits.data, logits.bytes());
  return {static_cast<const float*>(host_logits_.data()), static_cast<size_t>(logits.count())};
}

std::span<const float> Session::feed(std::span<const int32_t> tokens, const Progress& progress) {
  check(!tokens.empty(), "nothing to read: give at least one token");
  check_ids(tokens);
  const auto most = static_cast<size_t>(chunk());
  size_t read = 0;
  while (tokens.size() - read > most) {
    forward(tokens.subspan(read, most), false);
    read += most;
    if (!progress) continue;
    // Read, and not only asked of the GPU.
    if (ctx_.device == Device::kCuda) cuda::synchronize();
    if (!progress(static_cast<int64_t>(read))) return {};
  }
  const auto rest = tokens.subspan(read);
  const auto logits = on_host(rest.size() == 1 ? forward_one(rest[0]) : forward(rest, false));
  if (progress) progress(static_cast<int64_t>(tokens.size()));
  return logits;
}

std::vector<float> Session::feed_all(std::span<const int32_t> tokens) {
  std::vector<float> result;
  check_ids(tokens);
  while (!tokens.empty()) {
    const auto part = tokens.first(std::min<size_t>(tokens.size(), kChunk));
    const std::span<const float> logits = on_host(forward(part, true));
    result.insert(result.end(), logits.begin(), logits.end());
    tokens = tokens.subspan(part.size());
  }
  return result;
}

void Session::set_state(const State& state, int64_t position) {
  check(state.slot_bytes() == state_.slot_bytes() && state.slots() == 1,
        "a state of {} bytes does not fit this model, whose states have {}", state.slot_bytes(),
        state_.slot_bytes());
  state_.copy_from(state);  // in place: a recorded graph knows the address
  position_ = position;
}

void Session::reset() {
  state_.clear(0);
  position_ = 0;
}

}  // namespace rookery
