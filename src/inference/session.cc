#include "inference/session.h"

#include <algorithm>
#include <numeric>

namespace rookery {

Session::Session(const Model& model, ThreadPool& pool, bool deterministic)
    : model_(model), state_(model.state_layout(), 1) {
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

Tensor Session::forward(std::span<const int32_t> tokens) {
  arena_.reset();
  batch_.clear();
  batch_.add(tokens, 0, 0);
  const Tensor x = model_.forward(ctx_, batch_, {.state_in = &state_, .state_out = &state_});
  position_ += static_cast<int64_t>(tokens.size());
  return x;
}

std::span<const float> Session::feed(std::span<const int32_t> tokens) {
  check(!tokens.empty(), "nothing to read: give at least one token");
  check_ids(tokens);
  while (tokens.size() > kChunk) {
    forward(tokens.first(kChunk));
    tokens = tokens.subspan(kChunk);
  }
  const Tensor x = forward(tokens);
  const int64_t last = x.rows() - 1;
  const Tensor logits = model_.logits(ctx_, x, std::span(&last, 1));
  return {logits.as<float>(), static_cast<size_t>(logits.count())};
}

std::vector<float> Session::feed_all(std::span<const int32_t> tokens) {
  std::vector<float> result;
  check_ids(tokens);
  while (!tokens.empty()) {
    const auto chunk = tokens.first(std::min<size_t>(tokens.size(), kChunk));
    const Tensor x = forward(chunk);
    std::vector<int64_t> rows(chunk.size());
    std::iota(rows.begin(), rows.end(), 0);
    const Tensor logits = model_.logits(ctx_, x, rows);
    result.insert(result.end(), logits.as<float>(), logits.as<float>() + logits.count());
    tokens = tokens.subspan(chunk.size());
  }
  return result;
}

void Session::set_state(const State& state, int64_t position) {
  check(state.slot_bytes() == state_.slot_bytes() && state.slots() == 1,
        "a state of {} bytes does not fit this model, whose states have {}", state.slot_bytes(),
        state_.slot_bytes());
  state_ = state;
  position_ = position;
}

void Session::reset() {
  state_.clear(0);
  position_ = 0;
}

}  // namespace rookery
