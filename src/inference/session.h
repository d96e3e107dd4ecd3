// A conversation with a model: tokens in, logits out, the state in between. Knows ids, no text.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "inference/runner.h"

namespace rookery {

class Session {
 public:
  // The model and the pool must outlive this. Starts from the empty state.
  Session(const Model& model, ThreadPool& pool, bool deterministic = false);

  // Told how many of the tokens have been read; false stops the reading.
  using Progress = std::function<bool(int64_t read)>;

  // Reads tokens and returns the logits after the last [V], valid until the next call. A prompt is
  // read in chunks, so that memory does not grow with its length; `progress`, if there is one, is
  // called after each. If it stops the reading before the last token, nothing is returned, and
  // position() and state() are those after what was read. Throws Error, and reads nothing, for no
  // tokens or ids out of range.
  std::span<const float> feed(std::span<const int32_t> tokens, const Progress& progress = {});
  std::span<const float> feed(int32_t token) { return feed(std::span(&token, 1)); }
  // The logits after every token [tokens, V].
  std::vector<float> feed_all(std::span<const int32_t> tokens);

  // Tokens read since the empty state.
  int64_t position() const { return position_; }
  // One slot: copy it to fork a conversation, assign it to go back.
  const State& state() const { return runner_.states(); }
  void set_state(const State& state, int64_t position);
  void reset();

  Context& context() { return runner_.context(); }
  const Model& model() const { return runner_.model(); }

  // Tokens of a prompt that are read at once: enough to fill the device, so that memory does not
  // grow with the prompt.
  static constexpr int64_t kChunk = 512, kDeviceChunk = 4096;
  int64_t chunk() const { return model().device() == Device::kCuda ? kDeviceChunk : kChunk; }

 private:
  enum class Wanted { kNothing, kLast, kAll };
  // Before the state changes: a long prompt is read in several chunks.
  void check_ids(std::span<const int32_t> tokens) const;
  // The logits after the last of these tokens, or after each.
  Tensor forward(std::span<const int32_t> tokens, Wanted wanted);

  ModelRunner runner_;  // of one slot
  Batch batch_;
  int64_t position_ = 0;
};

}  // namespace rookery
