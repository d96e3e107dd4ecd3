// `rookery train`: from scratch, from a model, or on from a checkpoint.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "benchmarks/machine_limits.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/cpu_info.h"
#include "core/device.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"
#include "training/run.h"

namespace rookery::cli {
namespace {

struct TrainFlags {
  RunOptions run;
  std::string folder, resume;
  std::string products = "auto", schedule = "cosine", reset_documents = "auto", optimizer = "adamw",
              order = "shuffled";
  bool dry_run = false, json = false;
  std::shared_ptr<int> threads = std::make_shared<int>(0);
  std::shared_ptr<std::string> device;
};

std::string amount(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

nlohmann::json plan_json(const RunPlan& plan) {
  const MemoryPlan& memory = plan.memory;
  return {{"parameters", plan.parameters},
          {"memory",
           {{"weights", memory.weights},
            {"bf16_weights", memory.low_weights},
            {"gradients", memory.gradients},
            {"moments", memory.moments},
            {"activations", memory.activations},
            {"activation_gradients", memory.activation_gradients},
            {"scratch", memory.scratch},
            {"program_and_data", plan.program},
            {"total", plan.total_bytes()}}},
          {"flops_per_token", plan.flops_per_token},
          {"flops_per_step", plan.flops_per_step()},
          {"flops_total", plan.flops()},
          {"steps", plan.options.schedule.total_steps},
          {"tokens_per_step", plan.options.tokens_per_step()}};
}

std::string plan_text(const RunPlan& plan) {
  const ModelConfig& config = plan.config;
  const TrainOptions& options = plan.options;
  std::string text = fmt::format(
      "model        RWKV-{}, {} layers, width {}, vocabulary {}: {} parameters\n"
      "step         {} windows of {} tokens x {} = {} tokens\n"
      "computing    {} FLOP per token, {} per step, {} in {} steps\n",
      config.generation, config.layers, config.width, config.vocabulary, plan.parameters,
      options.batch, options.context, options.accumulation, options.tokens_per_step(),
      format_count(plan.flops_per_token), format_count(plan.flops_per_step()),
      format_count(plan.flops()), options.schedule.total_steps);
  const char* head = "memory";
  const auto line = [&](const char* purpose, const std::string& bytes) {
    text += fmt::format("{:13}{:22}{}\n", head, purpose, bytes);
    head = "";
  };
  const MemoryPlan& memory = plan.memory;
  line("weights", amount(memory.weights));
  if (memory.low_weights > 0) line("bfloat16 copies", amount(memory.low_weights));
  line("gradients", amount(memory.gradients));
  line("Adam's moments", amount(memory.moments));
  line("activations", amount(memory.activations));
  line("their gradients", amount(memory.activation_gradients));
  if (plan.on_gpu()) {
    line("scratch", amount(memory.scratch));
    line("on the GPU in all",
         fmt::format("{} ({} free)", amount(plan.total_bytes()),
                     amount(cuda::Device::get(plan.device.gpu).free_memory())));
  }
  line("program, text", amount(plan.program));
  if (!plan.on_gpu()) line("in all", amount(plan.total_bytes()));
  return text;
}

int dry_run(const RunOptions& options, bool json, ThreadPool& pool) {
  // The product library compiles its kernels when it is first called, and that is part of a run's
  // memory.
  if (options.device == Device::kCpu) measure_product_rate(pool, options.training.products, 1);
  const RunPlan plan = plan_run(options, pool);
  write_output(json ? plan_json(plan).dump() + "\n" : plan_text(plan));
  return 0;
}

nlohmann::json summary_json(const RunSummary& summary, Device device) {
  nlohmann::json json = {{"parameters", summary.parameters},
                         {"step", summary.step},
                         {"finished", summary.finished()},
                         {"tokens_seen", summary.tokens_seen},
                         {"loss", summary.loss},
                         {"mean_loss", summary.mean_loss},
                         {"validation_loss", summary.validation_loss},
                         {"tokens_per_second", summary.tokens_per_second},
                         {"seconds", summary.seconds},
                         {"device", describe(device)},
                         {"checkpoint", summary.checkpoint.string()},
                         {"peak_memory", process_memory().peak}};
  if (summary.mean_bits_per_byte) json["bits_per_byte"] = *summary.mean_bits_per_byte;
  if (summary.validation_bits_per_byte) {
    json["validation_bits_per_byte"] = *summary.validation_bits_per_byte;
  }
  return json;
}

std::string loss_text(double nats, const std::optional<double>& bits_per_byte) {
  return bits_per_byte ? fmt::format("{:.3f} bits/byte", *bits_per_byte)
                       : fmt::format("{:.3f} nats/token", nats);
}

std::string summary_text(const RunSummary& summary, const std::filesystem::path& folder) {
  std::string text =
      fmt::format("{} at step {} of {}: {} parameters, {} tokens seen, training {}",
                  summary.finished() ? "Done" : "Stopped", summary.step, summary.last_step,
                  summary.parameters, format_count(static_cast<double>(summary.tokens_seen)),
                  loss_text(summary.mean_loss, summary.mean_bits_per_byte));
  if (summary.validation_loss > 0) {
    text += ", validation " + loss_text(summary.validation_loss, summary.validation_bits_per_byte);
  }
  text += fmt::format(", {} tokens/s\nCheckpoint: {}\n", format_count(summary.tokens_per_second),
                      summary.checkpoint.string());
  if (summary.finished()) {
    return text + fmt::format("Model:      {}\nTry:        rookery generate {}\n",
                              summary.model.string(), folder.string());
  }
  return text + fmt::format("Go on with: rookery train --resume {}\n", folder.string());
}

std::string step_text(const RunStep& step) {
  std::string text = fmt::format("loss {:.3f}", step.mean_loss);
  if (step.mean_bits_per_byte) text += fmt::format("  {:.3f} bits/byte", *step.mean_bits_per_byte);
  text += fmt::format("  lr {:.2e}  |g| {:.2f}  {} tok/s", step.result.learning_rate,
                      step.result.gradient_norm, format_count(step.tokens_per_second));
  if (step.matmul_share) text += fmt::format("  {:.0f}% of peak", 100 * *step.matmul_share);
  return text;
}

// With a bar, until the last step or a signal.
int train(TrainingRun& run, const TrainFlags& flags, ThreadPool& pool) {
  std::optional<Progress> progress;
  RunObserver observer;
  observer.on_start = [&](const RunStart& start) {
    if (start.validation_batches == 0 && start.state.options.validation_fraction > 0) {
      fmt::print(stderr,
                 "No validation: {} of the data is less than a window of {} tokens, or nothing in "
                 "it is to be learned.\n",
                 start.state.options.validation_fraction, start.state.options.context);
    }
    progress.emplace(
        stderr,
        ProgressOptions{.title = "train", .total = start.last_step, .start = start.first_step});
  };
  observer.on_step = [&](const RunStep& step) { progress->update(step.step, step_text(step)); };
  observer.on_validation = [&](const RunValidation& validation) {
    progress->message(fmt::format(
        "step {:>6}  validation {:.4f} nats{}", validation.step, validation.loss,
        validation.bits_per_byte ? fmt::format(" = {:.4f} bits/byte", *validation.bits_per_byte)
                                 : ""));
  };
  observer.should_stop = stop_requested;
  const double matmul_rate =
      measure_product_rate(pool, run.state().options.products, 3, flags.run.device);
  catch_signals();
  const RunSummary summary = run.train(observer, matmul_rate);
  progress->finish();
  write_output(flags.json ? summary_json(summary, flags.run.device).dump() + "\n"
                          : summary_text(summary, run.folder()));
  return 0;
}

int train_anew(TrainFlags& flags) {
  RunOptions& options = flags.run;
  if (options.data.files.empty() && !flags.dry_run)
    throw CLI::RequiredError("--data (or --resume)");
  if (flags.folder.empty() && !flags.dry_run) throw CLI::RequiredError("--out");
  options.folder = flags.folder;
  options.device = resolve_device(*flags.device);
  options.training.products = flags.products != "auto"          ? parse_dtype(flags.products)
                              : options.device == Device::kCuda ? DType::kBF16
                                                                : DType::kF32;
  options.training.schedule.kind = parse_schedule_kind(flags.schedule);
  options.training.order = parse_window_order(flags.order);
  if (flags.optimizer == "adam") options.training.optimizer.weight_decay = 0;
  if (flags.reset_documents != "auto") options.reset_documents = flags.reset_documents == "on";
  ThreadPool pool(resolve_threads(*flags.threads));
  if (flags.dry_run) return dry_run(options, flags.json, pool);
  std::optional<Progress> bar;  // appears if the data has to be read
  TrainingRun run = TrainingRun::begin(options, pool, [&](int64_t done, int64_t total) {
    if (!bar) bar.emplace(stderr, ProgressOptions{.title = "checking the ids", .total = total});
    bar->update(done);
    return true;
  });
  bar.reset();
  return train(run, flags, pool);
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
  const bool steps_given = verb.get_option("--steps")->count() > 0;
  const int64_t steps = flags.run.training.schedule.total_steps;
  flags.run.device = resolve_device(*flags.device);
  ThreadPool pool(resolve_threads(*flags.threads));
  TrainingRun run = TrainingRun::resume(flags.resume,
                                        {.data_files = flags.run.data.files,
                                         .validation_files = flags.run.data.validation_files,
                                         .total_steps = steps_given ? steps : 0,
                                         .validation_windows = flags.run.validation_windows,
                                         .device = flags.run.device},
                                        pool);
  if (!run.finished()) return train(run, flags, pool);
  const int64_t step = run.state().step;
  if (steps_given) {
    wrong_usage("--steps {}: the run is at step {} already, expected more steps", steps, step);
  }
  fmt::print(stderr, "This run is at its last step, {}: give a larger --steps to go on.\n", step);
  if (flags.json) {
    write_output(nlohmann::json{{"step", step}, {"finished", true}}.dump() + "\n");
  }
  return 0;
}

}  // namespace

std::function<int()> add_train(CLI::App& app) {
  CLI::App* verb = add_verb(
      app, "train", "Train a model on text, from scratch, from a model, or on from a checkpoint",
      "  rookery train --data book.txt -o runs/book --minutes 5\n"
      "  rookery train --resume runs/book --steps 20000");
  auto flags = std::make_shared<TrainFlags>();
  TrainFlags& f = *flags;
  RunOptions& r = f.run;
  TrainOptions& o = r.training;
  o.schedule.rate = 1e-3;
  o.schedule.final_rate = 1e-4;
  o.schedule.warmup_steps = 50;
  o.schedule.total_steps = 1000;
  o.batch = 16;

  const std::string input = "Text and where to", model = "Model", step = "Step",
                    rate = "Learning rate", adam = "Optimizer", habits = "Checkpoints and reports";
  verb->add_option("--data", r.data.files,
                   "Text files; a line <|endoftext|> ends a document, as does the end of one of "
                   "several files. Or one NAME of rookery data prepare")
      ->group(input);
  verb->add_option("--tokenizer", r.data.tokenizer,
                   "A vocabulary file, or: bytes. Else the prepared data's, the --model's, bytes")
      ->type_name("FILE")
      ->group(input);
  CLI::Option* const validation_data =
      verb->add_option("--validation-data", r.data.validation_files,
                       "Validate on this instead of a part of the data")
          ->group(input);
  verb->add_option("-o,--out", f.folder,
                   "Folder of the run: checkpoints, metrics.jsonl, learning_curve.svg, TensorBoard "
                   "events, model")
      ->group(input);
  verb->add_option("--resume", f.resume,
                   "Go on bit for bit from this run's newest checkpoint, or from this file")
      ->group(input);

  CLI::Option* const from_model =
      verb->add_option("--model", r.model, "Start from this model instead of a fresh one")
          ->group(model);
  verb->add_option("--generation", r.fresh.generation, "RWKV generation")
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--layers", r.fresh.layers, "Layers")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--width", r.fresh.width, "Width of the embedding")
      ->check(at_least(1))
      ->capture_default_str()
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--vocab", r.fresh.vocabulary,
                   "Tokens of a fresh model, at least the tokenizer's (else as many)")
      ->check(at_least(1))
      ->group(model)
      ->excludes(from_model);
  verb->add_option("--init", r.fresh.scheme,
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
  verb->add_option("--steps", o.schedule.total_steps, "Steps")

      ->check(at_least(1))
      ->capture_default_str()
      ->group(step);
  verb->add_option("--minutes", r.minutes,
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
  f.device = add_device(*verb);
  verb->get_option("--device")->group(step);
  verb->add_option("--threads", *f.threads, "Threads; 0: one for each physical core")
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

  verb->add_option("--checkpoint-every", r.checkpoint_every,
                   "Steps between checkpoints; 0: only at the end")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  verb->add_option("--keep", r.keep, "Checkpoints that are kept; 0: all")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  verb->add_option("--validate-every", r.validate_every,
                   "Steps between validations; 0: only at the end")

      ->check(at_least(0))
      ->capture_default_str()
      ->group(habits);
  CLI::Option* const fraction = verb->add_option("--validation-fraction", o.validation_fraction,
                                                 "Part of the data, from its end, that is held out")
                                    ->capture_default_str()
                                    ->group(habits)
                                    ->excludes(validation_data);
  verb->add_option("--validation-windows", r.validation_windows, "Most windows of one validation")

      ->check(at_least(1))
      ->capture_default_str()
      ->group(habits);
  verb->add_flag("--dry-run", f.dry_run, "Print parameters, memory and FLOPs, and do nothing")
      ->group(habits)
      ->excludes("--minutes");
  verb->add_flag("--json", f.json, "Report as one JSON object")->group(habits);
  return [flags, verb, fraction] {
    if (!flags->resume.empty()) return resume(*flags, *verb);
    const bool magic = flags->order == "magic-prime";
    if (flags->run.training.magic_prime > 0 && !magic) {
      wrong_usage("--magic-prime belongs to --order magic-prime");
    }
    if (magic && fraction->count() == 0) flags->run.training.validation_fraction = 0;
    return train_anew(*flags);
  };
}

}  // namespace rookery::cli
