// A model with everything that running it needs: the recurrent states of several sequences in
// slots, memory, and the batch where the device reads it. Sessions, evaluation and benches run
// models through this. Knows ids, no text.
#pragma once

#include <functional>
#include <span>

#include "core/context.h"
#include "core/cuda/captured.h"
#include "models/model.h"

namespace rookery {

class ModelRunner {
 public:
  // Logits exist for so many bytes of rows at a time when they are taken in pieces.
  static constexpr int64_t kLogitsBytes = int64_t{64} << 20;

  // `slots` states, all empty. The model and the pool must outlive this. Throws Error when the
  // device has too little memory.
  ModelRunner(const Model& model, ThreadPool& pool, int64_t slots, bool deterministic = false);
  ModelRunner(const ModelRunner&) = delete;  // its context points into it
  ModelRunner& operator=(const ModelRunner&) = delete;

  // Reads `batch`, whose slots are those of this runner, and returns the logits of its wanted rows
  // [wanted, V], float32, where the model is; valid until the next call. Does not wait for a GPU.
  // There a step of decoding, in which every sequence has one token and all logits are wanted, is
  // captured: as long as the number of sequences stays, from its third time on it is one launch.
  // Throws Error, before any state changes, for ids and rows that are not there.
  Tensor forward(const Batch& batch);
  // What forward() returned, in the processor's memory, when it is there; valid until the next
  // call.
  std::span<const float> on_host(const Tensor& logits);

  // The logits [n, V] of wanted rows number first .. first + n - 1.
  using TakeLogits = std::function<void(int64_t first, std::span<const float> logits)>;
  // The same for many wanted rows: hands their logits over in the processor's memory, piece by
  // piece of at most kLogitsBytes (one row at least).
  void forward(const Batch& batch, const TakeLogits& take);

  // The last batch once more, from the states as they are now: what a bench measures.
  Tensor repeat();

  // The states, when all work on them is done. -1 as a slot of a batch is the empty state, or
  // nowhere; a copied slot is a fork of its sequence.
  const State& states() const;
  void copy_slot(int64_t from, int64_t to);
  void clear_slot(int64_t slot);
  // Takes over the numbers of as many states of the same layout, wherever they are.
  void set_states(const State& states);

  const Model& model() const { return model_; }
  // For a checker or a profile.
  Context& context() { return ctx_; }

 private:
  const Model& model_;
  State states_;
  Arena arena_;
  // Of a step of decoding, and of every other batch.
  PlacedBatch step_, placed_;
  Tensor step_logits_, logits_;
  cuda::Captured captured_;  // the step
  bool is_step_ = false;     // whether the last batch was one
  Memory host_logits_;
  Context ctx_;  // behind what its work uses
};

}  // namespace rookery
