#include "inference/session.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace rookery {

Session::Session(const Model& model, ThreadPool& pool, bool deterministic)
    : runner_(model, pool, 1, deterministic) {}

void Session::check_ids(std::span<const int32_t> tokens) const {
  const int64_t vocabulary = model().config().vocabulary;
  for (const int32_t token : tokens) {
    check(token >= 0 && token < vocabulary) ||
        fail("token {} is not in the vocabulary: this model has tokens 0 to {}", token,
             vocabulary - 1);
  }
}

Tensor Session::forward(std::span<const int32_t> tokens, Wanted wanted) {
  batch_.clear();
  batch_.add(tokens, 0, 0);
  const auto rows = static_cast<int32_t>(tokens.size());
  if (wanted == Wanted::kLast) batch_.wanted = {rows - 1};
  if (wanted == Wanted::kAll) {
    batch_.wanted.resize(rows);
    std::iota(batch_.wanted.begin(), batch_.wanted.end(), 0);
  }
  const Tensor logits = runner_.forward(batch_);
  position_ += rows;
  return logits;
}

std::span<const float> Session::feed(std::span<const int32_t> tokens, const Progress& progress) {
  check(!tokens.empty()) || fail("nothing to read: give at least one token");
  check_ids(tokens);
  const auto most = static_cast<size_t>(chunk());
  size_t read = 0;
  while (tokens.size() - read > most) {
    forward(tokens.subspan(read, most), Wanted::kNothing);
    read += most;
    if (!progress) continue;
    context().wait();  // read, and not only asked of the GPU
    if (!progress(static_cast<int64_t>(read))) return {};
  }
  const std::span<const float> logits =
      runner_.on_host(forward(tokens.subspan(read), Wanted::kLast));
  if (progress) progress(static_cast<int64_t>(tokens.size()));
  return logits;
}

std::vector<float> Session::feed_all(std::span<const int32_t> tokens) {
  std::vector<float> result;
  check_ids(tokens);
  while (!tokens.empty()) {
    const auto part = tokens.first(std::min<size_t>(tokens.size(), kChunk));
    const std::span<const float> logits = runner_.on_host(forward(part, Wanted::kAll));
    result.insert(result.end(), logits.begin(), logits.end());
    tokens = tokens.subspan(part.size());
  }
  return result;
}

void Session::set_state(const State& state, int64_t position) {
  runner_.set_states(state);
  position_ = position;
}

void Session::reset() {
  runner_.clear_slot(0);
  position_ = 0;
}

}  // namespace rookery
