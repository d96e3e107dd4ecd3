#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/error.h"
#include "facade/language_model.h"
#include "rookery/rookery.hpp"
#include "training/run.h"

namespace rookery {
namespace {

std::vector<std::string> names_of(const std::vector<std::filesystem::path>& paths) {
  return {paths.begin(), paths.end()};
}

DType products_of(const std::string& dtype, Device device) {
  if (dtype == "auto") return device == Device::kCuda ? DType::kBF16 : DType::kF32;
  check(dtype == "f32" || dtype == "bf16") ||
      fail("invalid type of products '{}': expected auto, f32 or bf16", dtype);
  return parse_dtype(dtype);
}

RunOptions run_options(const std::filesystem::path& folder, const TrainingOptions& options) {
  RunOptions run;
  run.folder = folder;
  run.data = {.files = names_of(options.data),
              .validation_files = names_of(options.validation_data),
              .tokenizer = options.tokenizer};
  run.model = options.model.string();
  run.fresh.generation = options.generation;
  run.fresh.layers = options.layers;
  run.fresh.width = options.width;
  run.fresh.vocabulary = options.vocabulary;
  run.minutes = options.minutes;
  run.checkpoint_every = options.checkpoint_every;
  run.validate_every = options.validate_every;
  run.device = resolve_device(options.device);
  TrainOptions& training = run.training;
  training.context = options.context;
  training.batch = options.batch;
  training.accumulation = options.accumulation;
  training.products = products_of(options.dtype, run.device);
  training.dropout = options.dropout;
  training.seed = options.seed;
  training.schedule.rate = options.learning_rate;
  training.schedule.final_rate = options.final_learning_rate;
  training.schedule.warmup_steps = options.warmup_steps;
  training.schedule.total_steps = options.steps;
  training.optimizer.weight_decay = options.weight_decay;
  return run;
}

TrainingResult train(TrainingRun run, const OnTraining& on_step) {
  TrainingProgress progress;
  bool wanted = true;
  RunObserver observer;
  observer.on_start = [&](const RunStart& start) { progress.last_step = start.last_step; };
  observer.on_validation = [&](const RunValidation& validation) {
    progress.validation_loss = validation.loss;
  };
  observer.on_step = [&](const RunStep& step) {
    progress.step = step.step;
    progress.loss = step.result.loss;
    progress.mean_loss = step.mean_loss;
    progress.learning_rate = step.result.learning_rate;
    progress.gradient_norm = step.result.gradient_norm;
    progress.tokens_per_second = step.tokens_per_second;
    wanted = !on_step || on_step(progress);
  };
  observer.should_stop = [&] { return !wanted; };
  const RunSummary summary = run.train(observer);
  return {.step = summary.step,
          .last_step = summary.last_step,
          .tokens_seen = summary.tokens_seen,
          .mean_loss = summary.mean_loss,
          .validation_loss = progress.validation_loss,
          .checkpoint = summary.checkpoint,
          .model = summary.model};
}

}  // namespace

TrainingResult train(const std::filesystem::path& folder, const TrainingOptions& options,
                     const OnTraining& on_step) {
  ThreadPool pool(threads_of(options.threads));
  return train(TrainingRun::begin(run_options(folder, options), pool), on_step);
}

TrainingResult resume_training(const std::filesystem::path& folder,
                               const ResumeTrainingOptions& options, const OnTraining& on_step) {
  ThreadPool pool(threads_of(options.threads));
  return train(
      TrainingRun::resume(
          folder, {.total_steps = options.steps, .device = resolve_device(options.device)}, pool),
      on_step);
}

}  // namespace rookery
