#include "training/run.h"

#include <algorithm>
#include <numbers>
#include <span>
#include <utility>

#include <fmt/ranges.h>

#include "checkpoints/find.h"
#include "core/cpu_info.h"
#include "core/timing.h"
#include "ops/linear/product_cpu.h"
#include "reporting/learning_curve.h"
#include "tokenizers/load.h"
#include "training/metrics.h"

namespace rookery {
namespace {

constexpr const char* kModelFile = "model.safetensors";

// Bits per byte of text of a loss per token; nothing if the bytes are not known.
std::optional<double> bits_per_byte(double nats, double bytes_per_token) {
  if (bytes_per_token <= 0) return std::nullopt;
  return nats / std::numbers::ln2 / bytes_per_token;
}

// What is decided before a model is made.
struct Decided {
  std::optional<ModelConfig> given;  // sizes of the model to start from
  int64_t vocabulary = 0;
  std::unique_ptr<Tokenizer> tokenizer;  // until the data has it
  std::optional<RunData> data;           // none for a plan without data

  ModelConfig config(const FreshModel& fresh) const {
    return given ? *given : make_config(fresh.generation, fresh.layers, fresh.width, vocabulary);
  }
};

// A warm-up as long as the run would never reach the rate.
void set_length(ScheduleOptions& schedule, int64_t steps, int64_t warmup) {
  schedule.total_steps = steps;
  schedule.warmup_steps = std::min(warmup, steps / 10);
}

Decided decide(RunOptions& options, ThreadPool& pool) {
  Decided decided;
  std::optional<LoadedModel> loaded;
  if (!options.model.empty()) {
    loaded = look_at_model(options.model);
    decided.given = loaded->model->config();
  }
  decided.tokenizer = choose_tokenizer(options.data, loaded ? &*loaded : nullptr);
  decided.vocabulary = decided.given ? decided.given->vocabulary
                                     : choose_vocabulary(options.data, options.fresh.vocabulary,
                                                         decided.tokenizer.get());
  if (!options.data.validation_files.empty()) options.training.validation_fraction = 0;
  options.training.reset_documents = options.reset_documents.value_or(false);
  if (!options.data.files.empty()) {
    decided.data.emplace(options.data, std::move(decided.tokenizer), pool);
    if (!options.reset_documents) {
      options.training.reset_documents = options.training.order == WindowOrder::kShuffled &&
                                         decided.data->training().has_documents;
    }
  }
  return decided;
}

Model make_model(const RunOptions& options, const Decided& decided, ThreadPool& pool) {
  if (!options.model.empty()) return std::move(*load_model(options.model, MatrixType::kF32).model);
  InitOptions init{.scheme = options.fresh.scheme, .seed = options.training.seed};
  // The public training code scales the embedding by the rate.
  if (init.scheme == "released") init.embedding_scale = options.training.schedule.rate;
  return Model::initialised(decided.config(options.fresh), init, pool);
}

// Steps that fit into the time, by a few steps of a model that is thrown away.
int64_t steps_that_fit(const RunOptions& options, const Decided& decided, ThreadPool& pool) {
  TrainOptions training = options.training;
  set_length(training.schedule, 1000, training.schedule.warmup_steps);
  Trainer trainer(make_model(options, decided, pool), training, pool, options.device);
  const Loader loader = decided.data->loader(training, decided.vocabulary);
  trainer.step(loader);  // touches the memory for the first time
  std::vector<double> seconds;
  const Stopwatch all;
  while (seconds.size() < 3 || (all.seconds() < 2 && seconds.size() < 20)) {
    const Stopwatch one;
    trainer.step(loader);
    seconds.push_back(one.seconds());
  }
  return std::max<int64_t>(static_cast<int64_t>(options.minutes * 60 / median(seconds)), 10);
}

std::filesystem::path newest_checkpoint(const std::filesystem::path& from) {
  if (!std::filesystem::is_directory(from)) return from;
  const auto checkpoints = list_checkpoints(from);
  check(!checkpoints.empty()) ||
      fail("the folder '{}' holds no checkpoint-*.safetensors to go on from", from.string());
  return checkpoints.back();
}

// One call of train(): what it has measured so far.
class Loop {
 public:
  Loop(const std::filesystem::path& folder, RunState& state, const RunData& data, Trainer& trainer,
       std::span<const TrainingBatch> validation, const RunObserver& observer, double matmul_rate)
      : folder_(folder),
        state_(state),
        trainer_(trainer),
        validation_(validation),
        observer_(observer),
        loader_(data.loader(state.options, trainer.model().config().vocabulary)),
        metrics_(folder, state.step > 0 ? state.step : MetricsLog::kNewRun),
        text_bytes_(data.training().bytes_per_token),
        validation_bytes_(data.bytes_per_target(validation)),
        first_step_(state.step),
        last_step_(state.options.schedule.total_steps),
        tokens_(static_cast<double>(state.options.tokens_per_step())),
        flops_(3 * forward_flops_per_token(trainer.model()) * tokens_),
        matmul_rate_(matmul_rate) {}

  RunSummary run() {
    while (state_.step < last_step_ && !(observer_.should_stop && observer_.should_stop())) {
      std::vector<Metric> metrics = step();
      const bool last = state_.step == last_step_;
      if (!validation_.empty() && (last || is_due(state_.validate_every))) validate(metrics);
      metrics_.record(state_.step, metrics);
      if (!last && is_due(state_.checkpoint_every)) save();
    }
    if (checkpoint_ != checkpoint_path(folder_, state_.step)) save();
    RunSummary summary = this->summary();
    if (summary.finished()) {
      summary.model = folder_ / kModelFile;
      save_model(summary.model, trainer_.model(), state_);
    }
    draw_learning_curve(folder_);
    return summary;
  }

 private:
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  std::vector<Metric> step() {
    const Stopwatch watch;
    const StepResult result = trainer_.step(loader_);
    const double seconds = watch.seconds();
    seconds_ += seconds;
    state_.step = trainer_.steps_done();
    state_.tokens_seen += state_.options.tokens_per_step();
    mean_seconds_ = state_.step == first_step_ + 1 ? seconds : 0.9 * mean_seconds_ + 0.1 * seconds;
    std::vector<Metric> metrics;
    if (result.targets > 0) {  // else the step had nothing to learn, and no loss
      mean_loss_ = mean_loss_ ? 0.95 * *mean_loss_ + 0.05 * result.loss : result.loss;
      loss_ = result.loss;
      metrics.push_back({"loss", result.loss});
      if (const auto bits = bits_per_byte(result.loss, text_bytes_)) {
        metrics.push_back({"bits_per_byte", *bits});
      }
      metrics.push_back({"learning_rate", result.learning_rate});
      metrics.push_back({"gradient_norm", result.gradient_norm});
    }
    metrics.push_back({"tokens_per_second", tokens_ / seconds});
    if (matmul_rate_ > 0) metrics.push_back({"matrix_share", flops_ / seconds / matmul_rate_});
    metrics.push_back({"tokens", static_cast<double>(state_.tokens_seen)});
    if (observer_.on_step) {
      RunStep event{.step = state_.step, .result = result};
      event.mean_loss = mean_loss_.value_or(0);
      event.mean_bits_per_byte = bits_per_byte(event.mean_loss, text_bytes_);
      event.tokens_per_second = tokens_ / mean_seconds_;
      if (matmul_rate_ > 0) event.matmul_share = flops_ / mean_seconds_ / matmul_rate_;
      observer_.on_step(event);
    }
    return metrics;
  }

  void validate(std::vector<Metric>& metrics) {
    state_.validation_loss = trainer_.evaluate(validation_);
    metrics.push_back({"validation_loss", state_.validation_loss});
    const auto bits = bits_per_byte(state_.validation_loss, validation_bytes_);
    if (bits) metrics.push_back({"validation_bits_per_byte", *bits});
    if (observer_.on_validation) {
      observer_.on_validation({state_.step, state_.validation_loss, bits});
    }
  }

  void save() {
    checkpoint_ = save_checkpoint(folder_, trainer_, state_);
    if (observer_.on_checkpoint) observer_.on_checkpoint(checkpoint_);
  }

  RunSummary summary() const {
    RunSummary summary;
    summary.parameters = trainer_.model().parameter_count();
    summary.step = state_.step;
    summary.last_step = last_step_;
    summary.tokens_seen = state_.tokens_seen;
    summary.loss = loss_;
    summary.mean_loss = mean_loss_.value_or(0);
    summary.validation_loss = state_.validation_loss;
    summary.mean_bits_per_byte = bits_per_byte(summary.mean_loss, text_bytes_);
    summary.validation_bits_per_byte = bits_per_byte(state_.validation_loss, validation_bytes_);
    summary.seconds = seconds_;
    if (seconds_ > 0) {
      summary.tokens_per_second =
          static_cast<double>(state_.step - first_step_) * tokens_ / seconds_;
    }
    summary.checkpoint = checkpoint_;
    return summary;
  }

  const std::filesystem::path& folder_;
  RunState& state_;
  Trainer& trainer_;
  std::span<const TrainingBatch> validation_;
  const RunObserver& observer_;
  Loader loader_;
  MetricsLog metrics_;
  double text_bytes_, validation_bytes_;  // per token and per target; 0: unknown
  int64_t first_step_, last_step_;
  double tokens_, flops_;  // of a step
  double matmul_rate_;     // FLOP per second; 0: unknown
  std::optional<double> mean_loss_;
  double loss_ = 0, mean_seconds_ = 0, seconds_ = 0;
  std::filesystem::path checkpoint_;
};

}  // namespace

TrainingRun::TrainingRun(RunData data, int64_t validation_windows, std::filesystem::path folder,
                         RunState state, std::unique_ptr<Trainer> trainer)
    : folder_(std::move(folder)),
      state_(std::move(state)),
      data_(std::move(data)),
      trainer_(std::move(trainer)),
      validation_(data_.validation(state_.options, trainer_->model().config().vocabulary,
                                   validation_windows)) {}

TrainingRun TrainingRun::begin(RunOptions options, ThreadPool& pool, const DataProgress& progress) {
  check(!options.data.files.empty()) ||
      fail("no data to train on: name text files or prepared data");
  check(!options.folder.empty()) || fail("no folder for the run: name one");
  Decided decided = decide(options, pool);
  TrainOptions& training = options.training;
  const int64_t warmup = training.schedule.warmup_steps;
  set_length(training.schedule, training.schedule.total_steps, warmup);
  check(list_checkpoints(options.folder).empty() &&
        !std::filesystem::exists(options.folder / kModelFile)) ||
      fail("the folder '{}' holds a run already: go on with --resume {}, or choose another --out",
           options.folder.string(), options.folder.string());
  // Says what does not fit before any memory is asked for.
  decided.data->check_ids(decided.vocabulary, progress);
  training.magic_prime = decided.data->loader(training, decided.vocabulary).magic_prime();
  if (options.minutes > 0) {
    set_length(training.schedule, steps_that_fit(options, decided, pool), warmup);
  }
  auto trainer =
      std::make_unique<Trainer>(make_model(options, decided, pool), training, pool, options.device);
  const Tokenizer* known = decided.data->tokenizer();
  RunState state{.options = training,
                 .tokenizer = known == nullptr ? "" : std::string(known->name()),
                 .tokenizer_definition = known == nullptr ? "" : known->definition(),
                 .data_files = options.data.files,
                 .data_hash = decided.data->training().hash,
                 .validation_files = options.data.validation_files,
                 .checkpoint_every = options.checkpoint_every,
                 .keep = options.keep,
                 .validate_every = options.validate_every};
  return {std::move(*decided.data), options.validation_windows, std::move(options.folder),
          std::move(state), std::move(trainer)};
}

TrainingRun TrainingRun::resume(const std::filesystem::path& from, const ResumeOptions& options,
                                ThreadPool& pool) {
  const std::filesystem::path file = newest_checkpoint(from);
  Resumed resumed = load_checkpoint(file, pool, options.device);
  RunState& state = resumed.run;
  ScheduleOptions& schedule = state.options.schedule;
  if (options.total_steps > 0 && options.total_steps != schedule.total_steps) {
    schedule.total_steps = options.total_steps;
    validate(state.options);
    resumed.trainer->set_schedule(schedule);
  }
  if (!options.validation_files.empty()) state.validation_files = options.validation_files;
  std::unique_ptr<Tokenizer> tokenizer;
  if (!state.tokenizer_definition.empty()) {
    tokenizer = parse_tokenizer(state.tokenizer_definition, file.string());
  }
  RunData data({.files = options.data_files.empty() ? state.data_files : options.data_files,
                .validation_files = state.validation_files},
               std::move(tokenizer), pool);
  check(data.training().hash == state.data_hash) ||
      fail(
          "the text is not the one this run began with ({}): resume with the same --data, or start "
          "anew with --model",
          fmt::join(state.data_files, ", "));
  const std::filesystem::path folder = file.parent_path();
  return {std::move(data), options.validation_windows, folder.empty() ? "." : folder,
          std::move(state), std::move(resumed.trainer)};
}

RunSummary TrainingRun::train(const RunObserver& observer, double matmul_rate) {
  if (observer.on_start) {
    observer.on_start({.model = model(),
                       .state = state_,
                       .first_step = state_.step,
                       .last_step = state_.options.schedule.total_steps,
                       .validation_batches = static_cast<int64_t>(validation_.size())});
  }
  return Loop(folder_, state_, data_, *trainer_, validation_, observer, matmul_rate).run();
}

RunPlan plan_run(RunOptions options, ThreadPool& pool) {
  // The data stays until its memory has been counted.
  const Decided decided = decide(options, pool);
  RunPlan plan;
  plan.config = decided.config(options.fresh);
  set_length(options.training.schedule, options.training.schedule.total_steps,
             options.training.schedule.warmup_steps);
  validate(options.training);
  plan.options = options.training;
  plan.device = options.device;
  plan.memory = plan_memory(plan.config, plan.options, pool, options.device);
  const Model model = Model::planned(plan.config);
  plan.parameters = model.parameter_count();
  plan.flops_per_token = 3 * forward_flops_per_token(model);
  plan.program = process_memory().resident + cpu::product_scratch_bytes(pool.threads());
  return plan;
}

}  // namespace rookery
