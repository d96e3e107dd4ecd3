// rookery train: from scratch, from a model, or on from a checkpoint.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>

#include <fmt/ranges.h>

#include "reporting/learning_curve.h"
#include "reporting/progress.h"
#include "cli/train_data.h"
#include "cli/verbs.h"
#include "core/cpu_info.h"
#include "benchmarks/machine_limits.h"
#include "ops/linear/product_cpu.h"
#include "tokenizers/load.h"
#include "training/checkpoint.h"
#include "training/metrics.h"

namespace rookery::cli {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}
// Bits per byte of text of a loss per token.
double bits(double nats, double bytes_per_token) {
  return nats / std::numbers::ln2 / bytes_per_token;
}

struct TrainFlags {
  DataFlags data;
  std::string out, resume, model;
  std::string generation = "4", scheme = "released";
  int64_t layers = 6, width = 192;
  TrainOptions options;
  std::string products = "auto", schedule = "cosine", reset_documents = "auto", optimizer = "adamw",
              order = "shuffled";
  int64_t steps = 1000;
  double minutes = 0;
  int64_t checkpoint_every = 200, keep = 3, validate_every = 100, validation_windows = 64;
  bool dry_run = false, json = false;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device_name;
  Device device = Device::kCpu;
};

// Everything of a run that is not in the trainer.
struct Run {
  std::filesystem::path folder;
  RunState state;
  std::optional<RunData> data;
  std::unique_ptr<Trainer> trainer;
  std::vector<TrainingBatch> validation;
  double validation_bytes = 0;  // per target; 0: unknown
};

Model make_model(const TrainFlags& flags, int64_t vocabulary, ThreadPool& pool) {
  if (!flags.model.empty()) return std::move(*load_model(flags.model, MatrixType::kF32).model);
  InitOptions init{.scheme = flags.scheme, .seed = flags.options.seed};
  if (flags.scheme == "released") init.embedding_scale = flags.options.schedule.rate;
  return Model::initialised(make_config(flags.generation, flags.layers, flags.width, vocabulary),
                            init, pool);
}

// Steps that fit into the time, by a few steps of a model that is thrown away.
int64_t steps_in(const TrainFlags& flags, const RunData& data, int64_t vocabulary,
                 ThreadPool& pool) {
  TrainOptions options = flags.options;
  options.schedule.total_steps = 1000;
  Trainer trainer(make_model(flags, vocabulary, pool), options, pool, flags.device);
  const Loader loader = data.loader(options, vocabulary);
  trainer.step(loader);  // touches the memory for the first time
  std::vector<double> seconds;
  const auto start = Clock::now();
  while (seconds.size() < 3 || (seconds_since(start) < 2 && seconds.size() < 20)) {
    const auto before = Clock::now();
    trainer.step(loader);
    seconds.push_back(seconds_since(before));
  }
  return std::max<int64_t>(static_cast<int64_t>(flags.minutes * 60 / median(seconds)), 10);
}

void dry_run(const TrainFlags& flags, const ModelConfig& config, const TrainOptions& options,
             int64_t steps, ThreadPool& pool) {
  const Model model = Model::planned(config);
  const MemoryPlan plan = plan_memory(model, options, pool, flags.device);
  // The product library compiles its kernels when it is first called, and that is part of a run's
  // memory.
  if (flags.device == Device::kCpu) measure_product_rate(pool, options.products, 1);
  const int64_t program = process_memory().resident + cpu::product_scratch_bytes(pool.threads());
  const double forward = forward_flops_per_token(model);
  const double per_step = 3 * forward * static_cast<double>(options.tokens_per_step());
  // On a GPU the plan is the GPU's memory, and the program's is beside it.
  const bool on_gpu = flags.device == Device::kCuda;
  const int64_t total = plan.total() + (on_gpu ? 0 : program);
  if (flags.json) {
    const nlohmann::json json = {{"parameters", model.parameter_count()},
                                 {"memory",
                                  {{"weights", plan.weights},
                                   {"bf16_weights", plan.low_weights},
                                   {"gradients", plan.gradients},
                                   {"moments", plan.moments},
                                   {"activations", plan.activations},
                                   {"activation_gradients", plan.activation_gradients},
                                   {"scratch", plan.scratch},
                                   {"program_and_data", program},
                                   {"total", total}}},
                                 {"flops_per_token", 3 * forward},
                                 {"flops_per_step", per_step},
                                 {"flops_total", per_step * static_cast<double>(steps)},
                                 {"steps", steps},
                                 {"tokens_per_step", options.tokens_per_step()}};
    std::puts(json.dump().c_str());
    return;
  }
  fmt::print("model        RWKV-{}, {} layers, width {}, vocabulary {}: {} parameters\n",
             config.generation, config.layers, config.width, config.vocabulary,
             model.parameter_count());
  fmt::print("step         {} windows of {} tokens x {} = {} tokens\n", options.batch,
             options.context, options.accumulation, options.tokens_per_step());
  fmt::print("computing    {} FLOP per token, {} per step, {} in {} steps\n",
             format_count(3 * forward), format_count(per_step),
             format_count(per_step * static_cast<double>(steps)), steps);
  fmt::print("memory       weights               {}\n",
             format_bytes(static_cast<double>(plan.weights)));
  if (plan.low_weights > 0) {
    fmt::print("             bfloat16 copies       {}\n",
               format_bytes(static_cast<double>(plan.low_weights)));
  }
  fmt::print("             gradients             {}\n",
             format_bytes(static_cast<double>(plan.gradients)));
  fmt::print("             Adam's moments        {}\n",
             format_bytes(static_cast<double>(plan.moments)));
  fmt::print("             activations           {}\n",
             format_bytes(static_cast<double>(plan.activations)));
  fmt::print("             their gradients       {}\n",
             format_bytes(static_cast<double>(plan.activation_gradients)));
  if (on_gpu) {
    fmt::print("             scratch               {}\n",
               format_bytes(static_cast<double>(plan.scratch)));
    fmt::print("             on the GPU in all     {} ({} free)\n",
               format_bytes(static_cast<double>(total)),
               format_bytes(static_cast<double>(cuda::free_memory())));
  }
  fmt::print("             program, text         {}\n", format_bytes(static_cast<double>(program)));
  if (!on_gpu) {
    fmt::print("             in all                {}\n", format_bytes(static_cast<double>(total)));
  }
}

class Loop {
 public:
  Loop(Run& run, const TrainFlags& flags, ThreadPool& pool)
      : run_(run),
        flags_(flags),
        loader_(run.data->loader(run.state.options, run.trainer->model().config().vocabulary)),
        metrics_(run.folder,
                 run.trainer->steps_done() > 0 ? run.trainer->steps_done() : MetricsLog::kNewRun),
        text_bytes_(run.data->training().bytes_per_token),
        first_step_(run.trainer->steps_done()),
        last_step_(run.state.options.schedule.total_steps) {
    matrix_rate_ = measure_product_rate(pool, run.state.options.products, 3, flags.device);
  }

  void train() {
    Trainer& trainer = *run_.trainer;
    Progress progress(stderr, {.title = "train", .total = last_step_, .start = first_step_});
    const int64_t tokens = run_.state.options.tokens_per_step();
    const double flops = 3 * forward_flops_per_token(trainer.model()) * static_cast<double>(tokens);
    while (trainer.steps_done() < last_step_ && !stop_requested()) {
      const auto start = Clock::now();
      const StepResult result = trainer.step(loader_);
      const double seconds = seconds_since(start);
      step_seconds_ += seconds;
      const int64_t step = trainer.steps_done();
      run_.state.step = step;
      run_.state.tokens_seen += tokens;
      time_ = step == first_step_ + 1 ? seconds : 0.9 * time_ + 0.1 * seconds;
      std::vector<Metric> metrics;
      if (result.targets > 0) {  // else the step had nothing to learn, and no loss
        // The bar shows means: one step's loss jumps about.
        loss_ = has_loss_ ? 0.95 * loss_ + 0.05 * result.loss : result.loss;
        has_loss_ = true;
        last_loss_ = result.loss;
        metrics.push_back({"loss", result.loss});
        if (text_bytes_ > 0) metrics.push_back({"bits_per_byte", bits(result.loss, text_bytes_)});
        metrics.push_back({"learning_rate", result.learning_rate});
        metrics.push_back({"gradient_norm", result.gradient_norm});
      }
      metrics.push_back({"tokens_per_second", static_cast<double>(tokens) / seconds});
      metrics.push_back({"matrix_share", flops / seconds / matrix_rate_});
      metrics.push_back({"tokens", static_cast<double>(run_.state.tokens_seen)});
      progress.update(
          step,
          fmt::format(
              "loss {:.3f}{}  lr {:.2e}  |g| {:.2f}  {} tok/s  {:.0f}% of peak", loss_,
              text_bytes_ > 0 ? fmt::format("  {:.3f} bits/byte", bits(loss_, text_bytes_)) : "",
              result.learning_rate, result.gradient_norm,
              format_count(static_cast<double>(tokens) / time_),
              100 * flops / time_ / matrix_rate_));
      const bool last = step == last_step_;
      if (!run_.validation.empty() &&
          (last || (flags_.validate_every > 0 && step % flags_.validate_every == 0))) {
        run_.state.validation_loss = trainer.evaluate(run_.validation);
        metrics.push_back({"validation_loss", run_.state.validation_loss});
        std::string line =
            fmt::format("step {:>6}  validation {:.4f} nats", step, run_.state.validation_loss);
        if (run_.validation_bytes > 0) {
          const double validation_bits = bits(run_.state.validation_loss, run_.validation_bytes);
          metrics.push_back({"validation_bits_per_byte", validation_bits});
          line += fmt::format(" = {:.4f} bits/byte", validation_bits);
        }
        progress.message(line);
      }
      metrics_.record(step, metrics);
      if (!last && run_.state.checkpoint_every > 0 && step % run_.state.checkpoint_every == 0)
        save();
    }
    progress.finish();
    if (run_.state.step > first_step_ || saved_.empty()) save();
    if (run_.state.step == last_step_)
      save_model(run_.folder / "model.safetensors", trainer.model(), run_.state);
    draw_learning_curve(run_.folder);
  }

  nlohmann::json summary() const {
    const int64_t steps = run_.state.step - first_step_;
    nlohmann::json summary = {
        {"parameters", run_.trainer->model().parameter_count()},
        {"step", run_.state.step},
        {"finished", run_.state.step == last_step_},
        {"tokens_seen", run_.state.tokens_seen},
        {"loss", last_loss_},
        {"mean_loss", loss_},
        {"validation_loss", run_.state.validation_loss},
        {"tokens_per_second",
         step_seconds_ > 0
             ? static_cast<double>(steps * run_.state.options.tokens_per_step()) / step_seconds_
             : 0.0},
        {"seconds", step_seconds_},
        {"device", describe(flags_.device)},
        {"checkpoint", saved_.string()},
        {"peak_memory", process_memory().peak}};
    if (text_bytes_ > 0) summary["bits_per_byte"] = bits(loss_, text_bytes_);
    if (run_.validation_bytes > 0) {
      summary["validation_bits_per_byte"] = bits(run_.state.validation_loss, run_.validation_bytes);
    }
    return summary;
  }

 private:
  void save() { saved_ = save_checkpoint(run_.folder, *run_.trainer, run_.state); }

  Run& run_;
  const TrainFlags& flags_;
  Loader loader_;
  MetricsLog metrics_;
  double text_bytes_;  // per token; 0: unknown
  int64_t first_step_, last_step_;
  bool has_loss_ = false;
  double matrix_rate_ = 1, loss_ = 0, last_loss_ = 0, time_ = 0, step_seconds_ = 0;
  std::filesystem::path saved_;
};

int run_training(Run& run, const TrainFlags& flags, ThreadPool& pool) {
  run.validation = run.data->validation(run.state.options, run.trainer->model().config().vocabulary,
                                        flags.validation_windows);
  run.validation_bytes = run.data->bytes_per_target(run.validation);
  if (run.validation.empty() && run.state.options.validation_fraction > 0) {
    fmt::print(stderr,
               "No validation: {} of the data is less than a window of {} tokens, or nothing in it "
               "is to be learned.\n",
               run.state.options.validation_fraction, run.state.options.context);
  }
  Loop loop(run, flags, pool);
  catch_signals();
  loop.train();
  const nlohmann::json summary = loop.summary();
  if (flags.json) {
    std::puts(summary.dump().c_str());
    return 0;
  }
  const bool finished = summary.at("finished");
  const auto reported = [&](const char* loss, const char* bits_per_byte) {
    return summary.contains(bits_per_byte)
               ? fmt::format("{:.3f} bits/byte", summary.at(bits_per_byte).get<double>())
               : fmt::format("{:.3f} nats/token", summary.at(loss).get<double>());
  };
  fmt::print("{} at step {} of {}: {} parameters, {} tokens seen, training {}",
             finished ? "Done" : "Stopped", run.state.step, run.state.options.schedule.total_steps,
             summary.at("parameters").get<int64_t>(),
             format_count(static_cast<double>(run.state.tokens_seen)),
             reported("mean_loss", "bits_per_byte"));
  if (run.state.validation_loss > 0) {
    fmt::print(", validation {}", reported("validation_loss", "validation_bits_per_byte"));
  }
  fmt::print(", {} tokens/s\nCheckpoint: {}\n",
             format_count(summary.at("tokens_per_second").get<double>()),
             summary.at("checkpoint").get<std::string>());
  if (finished) {
    fmt::print("Model:      {}\nTry:        rookery generate {}\n",
               (run.folder / "model.safetensors").string(), run.folder.string());
  } else {
    fmt::print("Go on with: rookery train --resume {}\n", run.folder.string());
  }
  return 0;
}

int train_anew(TrainFlags& flags) {
  if (flags.data.files.empty() && !flags.dry_run) throw CLI::RequiredError("--data (or --resume)");
  if (flags.out.empty() && !flags.dry_run) throw CLI::RequiredError("--out");
  TrainOptions& options = flags.options;
  flags.device = resolve_device(*flags.device_name);
  options.products = flags.products != "auto"        ? parse_dtype(flags.products)
                     : flags.device == Device::kCuda ? DType::kBF16
                                                     : DType::kF32;
  options.schedule.kind = parse_schedule_kind(flags.schedule);
  options.schedule.total_steps = flags.steps;
  options.order = parse_window_order(flags.order);
  if (flags.optimizer == "adam") options.optimizer.weight_decay = 0;
  ThreadPool pool(resolve_threads(*flags.threads));

  std::optional<LoadedModel> loaded;
  if (!flags.model.empty()) loaded = look_at_model(flags.model);
  std::unique_ptr<Tokenizer> tokenizer = choose_tokenizer(flags.data, loaded ? &*loaded : nullptr);
  const int64_t vocabulary =
      loaded ? loaded->model->config().vocabulary : choose_vocabulary(flags.data, tokenizer.get());
  Run run;
  if (!flags.data.files.empty()) {
    run.data.emplace(flags.data.files, flags.data.validation_files, std::move(tokenizer), pool);
    // The public training code, whose order this is, goes on over the ends of documents.
    options.reset_documents =
        flags.reset_documents == "on" ||
        (flags.reset_documents == "auto" && options.order == WindowOrder::kShuffled &&
         run.data->training().has_documents);
  }
  // A warm-up as long as the run would never reach the rate.
  const int64_t warmup = options.schedule.warmup_steps;
  options.schedule.warmup_steps = std::min(warmup, flags.steps / 10);
  if (flags.dry_run) {
    validate(options);
    const ModelConfig config =
        loaded ? loaded->model->config()
               : make_config(flags.generation, flags.layers, flags.width, vocabulary);
    dry_run(flags, config, options, flags.steps, pool);
    return 0;
  }
  run.folder = flags.out;
  check(list_checkpoints(run.folder).empty() &&
            !std::filesystem::exists(run.folder / "model.safetensors"),
        "the folder '{}' holds a run already: go on with --resume {}, or choose another --out",
        flags.out, flags.out);
  // Says what does not fit before any memory is asked for.
  run.data->check_ids(vocabulary);
  options.magic_prime = run.data->loader(options, vocabulary).magic_prime();
  if (flags.minutes > 0) {
    flags.steps = options.schedule.total_steps = steps_in(flags, *run.data, vocabulary, pool);
    options.schedule.warmup_steps = std::min(warmup, flags.steps / 10);
  }
  Model model = make_model(flags, vocabulary, pool);
  run.trainer = std::make_unique<Trainer>(std::move(model), options, pool, flags.device);
  const Tokenizer* known = run.data->tokenizer();
  run.state = {.options = options,
               .tokenizer = known == nullptr ? "" : std::string(known->name()),
               .tokenizer_definition = known == nullptr ? "" : known->definition(),
               .data_files = flags.data.files,
               .data_hash = run.data->training().hash,
               .validation_files = flags.data.validation_files,
               .checkpoint_every = flags.checkpoint_every,
               .keep = flags.keep,
               .validate_every = flags.validate_every};
  return run_training(run, flags, pool);
}

int resume(TrainFlags& flags, const CLI::App& verb) {
  // What decides the numbers comes from the checkpoint; saying it again, perhaps differently, is a
  // mistake.
  static constexpr const char* kAllowed[] = {
      "--resume",  "--data", "--validation-data",    "--steps",
      "--threads", "--json", "--validation-windows", "--device"};
  for (const CLI::Option* option : verb.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0) continue;
    if (std::find(std::begin(kAllowed), std::end(kAllowed), name) == std::end(kAllowed)) {
      wrong_usage(
          "{} cannot be given with --resume: the run goes on as it began (only --data, "
          "--validation-data, --steps, --threads, --device, --json and --validation-windows may "
          "be)",
          name);
    }
  }
  ThreadPool pool(resolve_threads(*flags.threads));
  Run run;
  std::filesystem::path file = flags.resume;
  if (std::filesystem::is_directory(file)) {
    const auto checkpoints = list_checkpoints(file);
    check(!checkpoints.empty(), "the folder '{}' holds no checkpoint-*.safetensors to go on from",
          flags.resume);
    file = checkpoints.back();
  }
  run.folder = file.parent_path().empty() ? "." : file.parent_path();
  flags.device = resolve_device(*flags.device_name);
  Resumed resumed = load_checkpoint(file, pool, flags.device);
  run.state = resumed.run;
  run.trainer = std::move(resumed.trainer);
  if (verb.get_option("--steps")->count() > 0 &&
      flags.steps != run.state.options.schedule.total_steps) {
    // A longer run is another schedule from here on.
    run.state.options.schedule.total_steps = flags.steps;
    validate(run.state.options);
    run.trainer->set_schedule(run.state.options.schedule);
  }
  const auto& files = flags.data.files.empty() ? run.state.data_files : flags.data.files;
  if (!flags.data.validation_files.empty()) {
    run.state.validation_files = flags.data.validation_files;
  }
  std::unique_ptr<Tokenizer> tokenizer;
  if (!run.state.tokenizer_definition.empty()) {
    tokenizer = parse_tokenizer(run.state.tokenizer_definition, file.string());
  }
  run.data.emplace(files, run.state.validation_files, std::move(tokenizer), pool);
  check(run.data->training().hash == run.state.data_hash,
        "the text is not the one this run began with ({}): resume with the same --data, or start "
        "anew with --model",
        fmt::join(run.state.data_files, ", "));
  flags.validate_every = run.state.validate_every;
  if (run.state.step >= run.state.options.schedule.total_steps) {
    if (verb.get_option("--steps")->count() > 0) {
      wrong_usage("--steps {}: the run is at step {} already, expected more steps", flags.steps,
                  run.state.step);
    }
    fmt::print(stderr, "This run is at its last step, {}: give a larger --steps to go on.\n",
               run.state.step);
    if (flags.json)
      std::puts(nlohmann::json{{"step", run.state.step}, {"finished", true}}.dump().c_str());
    return 0;
  }
  return run_training(run, flags, pool);
}

}  // namespace

std::function<int()> add_train(CLI::App& app) {
  CLI::App* verb = add_verb(
      app, "train", "Train a model on text, from scratch, from a model, or on from a checkpoint",
      "  rookery train --data book.txt -o runs/book --minutes 5\n"
      "  rookery train --resume runs/book --steps 20000");
  auto flags = std::make_shared<TrainFlags>();
  TrainFlags& f = *flags;
  TrainOptions& o = f.options;
  o.schedule.rate = 1e-3;
  o.schedule.final_rate = 1e-4;
  o.schedule.warmup_steps = 50;
  o.batch = 16;

  const std::string input = "Text and where to", model = "Model", step = "Step",
                    rate = "Learning rate", adam = "Optimizer", habits = "Checkpoints and reports";
  verb->add_option("--data", f.data.files,
                   "Text files; a line <|endoftext|> ends a document, as does the end of one of "
                   "several files. Or one NAME of rookery data prepare")
      ->group(input);
  verb->add_option("--tokenizer", f.data.tokenizer,
                   "A vocabulary file, or: bytes. Else the prepared data's, the --model's, bytes")
      ->type_name("FILE")
      ->group(input);
  CLI::Option* const validation_data =
      verb->add_option("--validation-data", f.data.validation_files,
                       "Validate on this instead of a part of the data")
          ->group(input);
  verb->add_option("-o,--out", f.out,
                   "Folder of the run: checkpoints, metrics.jsonl, learning_curve.svg, TensorBoard "
                   "events, model")
      ->group(input);
  verb->add_option("--resume", f.resume,
                   "Go on bit for bit from this run's newest checkpoint, or from this file")
      ->group(input);

  CLI::Option* const from_model =
      verb->add_option("--model", f.model, "Start from this model instead of a fresh one")
          ->group(model);
  verb->add_option("--generation", f.generation, "RWKV generation")
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--layers", f.layers, "Layers")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--width", f.width, "Width of the embedding")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--vocab", f.data.vocabulary,
                   "Tokens of a fresh model, at least the tokenizer's (else as many)")
      ->check(at_least(1))
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--init", f.scheme,
                   "Initialisation: released (the public code's), paper, random")
      ->check(CLI::IsMember({"released", "paper", "random"}))
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);

  verb->add_option("--context", o.context, "Tokens of a window")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--batch", o.batch, "Windows of a micro-batch")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--accumulate", o.accumulation, "Micro-batches of a step")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--steps", f.steps, "Steps")

      ->check(at_least(1))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--minutes", f.minutes,
                   "As many steps as fit into this time, instead of --steps")
      ->check(CLI::Range(0.001, 1e6))
      ->excludes("--steps")
      ->group(step);
  verb->add_option("--dtype", f.products,
                   "Products (on a GPU activations, too): f32, or bf16 with float32 masters; auto: "
                   "bf16 on a GPU, else f32")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str()
      ->group(step);
  verb->add_flag("--gradient-checkpointing", o.gradient_checkpointing,
                 "Keep each layer's input only and compute the rest again: a third slower, far "
                 "less memory")
      ->group(step);
  verb->add_option("--reset-documents", f.reset_documents,
                   "Start every document from an empty state: on, off, auto (on for text with "
                   "document marks)")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--order", f.order,
                   "Of the windows: shuffled, or magic-prime, that of RWKV's public training code "
                   "(nothing is held out then, unless a fraction is given)")
      ->check(CLI::IsMember({"shuffled", "magic-prime"}))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--magic-prime", o.magic_prime,
                   "The magic prime, if not the largest that serves")
      ->check(at_least(2))
      ->group(step);
  verb->add_option("--dropout", o.dropout, "Dropout of each block's two outputs")
      ->capture_default_str()
      ->group(step);
  verb->add_option("--l2wrap", o.l2wrap, "Pull of the largest logit towards zero")
      ->capture_default_str()
      ->group(step);
  verb->add_option("--seed", o.seed, "Seed of initialisation, order and dropout")
      ->capture_default_str()
      ->group(step);
  f.device_name = add_device(*verb);
  verb->get_option("--device")->group(step);
  verb->add_option("--threads", *(f.threads = std::make_shared<int>(0)),
                   "Threads; 0: one for each physical core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str()
      ->group(step);

  verb->add_option("--schedule", f.schedule, "cosine, constant-exponential (the paper's), constant")
      ->check(CLI::IsMember({"cosine", "constant-exponential", "constant"}))
      ->capture_default_str()
      ->group(rate);
  verb->add_option("--learning-rate", o.schedule.rate, "Initial rate")
      ->capture_default_str()
      ->group(rate);
  verb->add_option("--final-learning-rate", o.schedule.final_rate, "Rate at the end")
      ->capture_default_str()
      ->group(rate);
  verb->add_option("--warmup", o.schedule.warmup_steps, "Steps of warm-up, at most a tenth of all")
      ->check(at_least(0))
      ->capture_default_str()
      ->group(rate);
  verb->add_option("--constant-steps", o.schedule.constant_steps,
                   "Steps at the initial rate before the exponential decay (constant-exponential)")
      ->check(at_least(0))
      ->capture_default_str()
      ->group(rate);

  verb->add_option("--optimizer", f.optimizer, "adamw, or adam: without weight decay")
      ->check(CLI::IsMember({"adamw", "adam"}))
      ->capture_default_str()
      ->group(adam);
  verb->add_option("--beta1", o.optimizer.beta1, "Adam's beta 1")
      ->capture_default_str()
      ->group(adam);
  verb->add_option("--beta2", o.optimizer.beta2, "Adam's beta 2")
      ->capture_default_str()
      ->group(adam);
  verb->add_option("--adam-epsilon", o.optimizer.epsilon, "Adam's epsilon")
      ->capture_default_str()
      ->group(adam);
  verb->add_option("--weight-decay", o.optimizer.weight_decay, "Weight decay of matrices")
      ->capture_default_str()
      ->group(adam);
  verb->add_option("--clip", o.optimizer.clip,
                   "Largest global norm of the gradient; 0: no clipping")
      ->capture_default_str()
      ->group(adam);

  verb->add_option("--checkpoint-every", f.checkpoint_every,
                   "Steps between checkpoints; 0: only at the end")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  verb->add_option("--keep", f.keep, "Checkpoints that are kept; 0: all")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  verb->add_option("--validate-every", f.validate_every,
                   "Steps between validations; 0: only at the end")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  CLI::Option* const fraction = verb->add_option("--validation-fraction", o.validation_fraction,
                                                 "Part of the data, from its end, that is held out")
                                    ->capture_default_str()
                                    ->group(habits)
                                    ->excludes(validation_data);
  verb->add_option("--validation-windows", f.validation_windows, "Most windows of one validation")

      ->check(at_least(1))
      ->capture_default_str()
      ->group(habits);
  verb->add_flag("--dry-run", f.dry_run, "Print parameters, memory and FLOPs, and do nothing")
      ->group(habits)
      ->excludes("--minutes");
  verb->add_flag("--json", f.json, "Report as one JSON object")->group(habits);
  return [flags, verb, fraction, validation_data] {
    if (!flags->resume.empty()) return resume(*flags, *verb);
    const bool magic = flags->order == "magic-prime";
    if (flags->options.magic_prime > 0 && !magic) {
      wrong_usage("--magic-prime belongs to --order magic-prime");
    }
    if (validation_data->count() > 0 || (magic && fraction->count() == 0)) {
      flags->options.validation_fraction = 0;
    }
    return train_anew(*flags);
  };
}

}  // namespace rookery::cli
