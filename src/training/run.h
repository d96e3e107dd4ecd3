// A training run: text or prepared data on one side, a folder with checkpoints, metrics.jsonl, a
// learning curve and, after the last step, model.safetensors on the other. It may be stopped after
// any step and goes on bit for bit. Nothing is printed: an observer hears what happens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "training/checkpoint.h"
#include "training/run_data.h"
#include "training/trainer.h"

namespace rookery {

// A model to train from scratch.
struct FreshModel {
  std::string generation = "4";
  int64_t layers = 6, width = 192;
  int64_t vocabulary = 0;           // tokens; 0: the tokenizer's
  std::string scheme = "released";  // of initialisation (kInitSchemes)
};

struct RunOptions {
  std::filesystem::path folder;  // must not hold a run yet
  DataOptions data;
  std::string model;  // a file or folder to start from; empty: `fresh`
  FreshModel fresh;
  // schedule.total_steps is the length of the run. The warm-up is limited to a tenth of it, and
  // nothing is held out if there is other data for validation.
  TrainOptions training;
  // Whether every document starts from the empty state; not given: if the text has documents and
  // the order is shuffled (RWKV's public training code, whose order is the other one, never does).
  std::optional<bool> reset_documents;
  double minutes = 0;  // above 0: as many steps as fit into this time, instead of total_steps
  int64_t checkpoint_every = 200;   // steps; 0: only at the end
  int64_t keep = 3;                 // newest checkpoints that are kept; 0: all
  int64_t validate_every = 100;     // steps; 0: only at the end
  int64_t validation_windows = 64;  // at most
  Device device = Device::kCpu;
};

// What may change when a run goes on; all else comes from its checkpoint.
struct ResumeOptions {
  std::vector<std::string> data_files;        // where the data is now; empty: where it was
  std::vector<std::string> validation_files;  // what to validate on; empty: the same as before
  int64_t total_steps = 0;  // above 0: another length, and so another schedule from here on
  int64_t validation_windows = 64;
  Device device = Device::kCpu;
};

// The numbers that an observer hears. A loss is in nats per target token; bits per byte are there
// if it is known how many bytes of text the tokens stand for.
struct RunStart {
  const Model& model;
  const RunState& state;
  int64_t first_step = 0;  // steps done before
  int64_t last_step = 0;
  int64_t validation_batches = 0;  // 0: nothing is held out, or nothing of it is to be learned
};
struct RunStep {
  int64_t step = 0;  // the one that was done, from 1
  StepResult result;
  // Exponentially weighted means over the last steps: one step's numbers jump about.
  double mean_loss = 0;
  std::optional<double> mean_bits_per_byte;
  double tokens_per_second = 0;
  std::optional<double> matmul_share;  // of the matmul rate, if that is known
};
struct RunValidation {
  int64_t step = 0;
  double loss = 0;
  std::optional<double> bits_per_byte;
};

// Callbacks, each optional. What one throws ends train(); the checkpoints in the folder stay whole.
struct RunObserver {
  std::function<void(const RunStart&)> on_start;
  std::function<void(const RunStep&)> on_step;
  std::function<void(const RunValidation&)> on_validation;
  std::function<void(const std::filesystem::path&)> on_checkpoint;
  // Asked before every step: true ends train(), which saves first.
  std::function<bool()> should_stop;
};

struct RunSummary {
  int64_t parameters = 0;
  int64_t step = 0, last_step = 0;
  int64_t tokens_seen = 0;
  double loss = 0, mean_loss = 0;  // of the last step, and as in RunStep; 0 if there was no step
  double validation_loss = 0;      // the last one; 0 before the first
  std::optional<double> mean_bits_per_byte, validation_bits_per_byte;
  double seconds = 0;                // of this call's steps, without validation and checkpoints
  double tokens_per_second = 0;      // of these steps
  std::filesystem::path checkpoint;  // the newest
  std::filesystem::path model;       // empty unless the run is finished

  bool finished() const { return step == last_step; }
};

class TrainingRun {
 public:
  // A new run: opens the data, checks every id, and makes the model. Nothing is written before
  // train(). `pool` must outlive the run. Throws Error for options that do not fit each other, the
  // data or the memory, and for a folder that holds a run.
  static TrainingRun begin(RunOptions options, ThreadPool& pool, const DataProgress& progress = {});
  // The run of this checkpoint, or of the newest in this folder. Throws Error if there is none, or
  // if the data is not the one that the run began with.
  static TrainingRun resume(const std::filesystem::path& from, const ResumeOptions& options,
                            ThreadPool& pool);

  // Trains to the last step, or until the observer asks to stop; may be called again then.
  // `matmul_rate` is this machine's, in FLOP per second, for RunStep::matmul_share and the metric
  // matrix_share; 0: unknown. Throws Error when the loss is not finite or a file cannot be written.
  RunSummary train(const RunObserver& observer = {}, double matmul_rate = 0);

  const std::filesystem::path& folder() const { return folder_; }
  const RunState& state() const { return state_; }
  const Model& model() const { return trainer_->model(); }
  bool finished() const { return state_.step >= state_.options.schedule.total_steps; }

 private:
  TrainingRun(RunData data, int64_t validation_windows, std::filesystem::path folder,
              RunState state, std::unique_ptr<Trainer> trainer);

  std::filesystem::path folder_;
  RunState state_;
  RunData data_;
  std::unique_ptr<Trainer> trainer_;
  std::vector<TrainingBatch> validation_;
};

// What a run would need and do, without doing it.
struct RunPlan {
  ModelConfig config;
  TrainOptions options;  // as the run would have them
  int64_t parameters = 0;
  MemoryPlan memory;    // of the device
  int64_t program = 0;  // bytes of the process besides: program, libraries, and the data
  Device device = Device::kCpu;

  // Then `program` is not in the device's memory.
  bool on_gpu() const { return device == Device::kCuda; }
  double flops_per_token = 0;

  int64_t total_bytes() const { return memory.total() + (on_gpu() ? 0 : program); }
  double flops_per_step() const {
    return flops_per_token * static_cast<double>(options.tokens_per_step());
  }
  double flops() const {
    return flops_per_step() * static_cast<double>(options.schedule.total_steps);
  }
};
// Needs no folder; without data a fresh model has the vocabulary that the options say, or that of
// bytes. Throws Error as begin() does for options that do not fit each other or the data.
RunPlan plan_run(RunOptions options, ThreadPool& pool);

}  // namespace rookery
