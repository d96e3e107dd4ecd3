// `rookery generate`: reads a prompt and writes what the model says next, token by token.

#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/load.h"
#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/sampling.h"
#include "cli/signals.h"
#include "generation/generator.h"
#include "generation/sampling.h"
#include "generation/saved_state.h"
#include "inference/session.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateFlags {
  std::string model;
  std::shared_ptr<Prompt> prompt;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device;
  std::shared_ptr<std::string> tokenizer;
  int64_t tokens = 256;
  std::shared_ptr<SamplingChoices> sampling;
  std::string load_state, save_state;
  std::vector<std::string> stops;
  int top_logprobs = 0;
  bool deterministic = false, echo = false, json = false, quiet = false;
};

// Shows tokens as text, as ids or as lines of JSON. Once nobody reads, reading() is false.
class Output {
 public:
  // `tokenizer` may be null: ids are shown.
  Output(const Tokenizer* tokenizer, bool json) : tokenizer_(tokenizer), json_(json) {}

  bool reading() const { return reading_; }

  void echo(std::span<const int32_t> ids, Generator& generator) {
    std::string shown = generator.echo(ids);
    if (tokenizer_ == nullptr) {
      for (const int32_t id : ids) shown += next_id(id);
    }
    write(shown);
  }

  void piece(const Piece& piece) {
    const Sampler::Choice& choice = piece.choice;
    if (!json_) return write(tokenizer_ == nullptr ? next_id(choice.id) : piece.text);
    Json line = {{"id", choice.id}};
    if (!piece.text.empty()) line["text"] = piece.text;
    if (tokenizer_ != nullptr) {
      line["bytes"] = std::vector<uint8_t>(piece.bytes.begin(), piece.bytes.end());
    }
    line["log_probability"] = choice.log_probability;
    if (!choice.top.empty()) {
      Json& top = line["top"] = Json::array();
      for (const auto& [id, log_probability] : choice.top) {
        top.push_back({{"id", id}, {"log_probability", log_probability}});
      }
    }
    write(line.dump() + "\n");
  }

  // The rest of the text, and the end of the line or of the JSON.
  void finish(std::string text, Json summary) {
    if (json_) {
      if (!text.empty()) summary["text"] = text;
      return write(summary.dump() + "\n");
    }
    if (!text.empty()) last_ = text.back();
    // Text is written as it is, but on a terminal the next prompt belongs on a line of its own.
    const bool line_open = last_ != '\n' && last_ != '\0';
    if (line_open && (tokenizer_ == nullptr || isatty(STDOUT_FILENO) != 0)) text += "\n";
    write(text);
  }

 private:
  std::string next_id(int64_t id) {
    const char* between = first_id_ ? "" : " ";
    first_id_ = false;
    return fmt::format("{}{}", between, id);
  }

  void write(const std::string& text) {
    if (text.empty() || !reading_) return;
    last_ = text.back();
    reading_ = write_output(text);
  }

  const Tokenizer* tokenizer_;
  bool json_, reading_ = true;
  bool first_id_ = true;
  char last_ = '\0';  // the last byte that was shown
};

// A bar for prompts that take long, on a terminal.
class PromptProgress {
 public:
  void update(int64_t read, int64_t total) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    if (!bar_ && read < total && isatty(STDERR_FILENO) != 0 && passed.count() > 2) {
      bar_.emplace(stderr, ProgressOptions{.title = "prompt", .total = total});
    }
    if (!bar_) return;
    bar_->update(read);
    if (read == total) bar_->finish();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::optional<Progress> bar_;
};

// Writes the state of what the session has read, with `logits`, those after the last token.
void save_state(const std::string& file, const Session& session, const Tokenizer* tokenizer,
                std::span<const float> logits, const Sampler& sampler) {
  SavedState saved = saved_state(session.model(), tokenizer, session.state(), session.position());
  saved.logits.assign(logits.begin(), logits.end());
  saved.sampler = saved_sampler(sampler);
  write_state_file(file, saved);
}

int generate(const GenerateFlags& flags) {
  check_sampling(*flags.sampling);
  if (!flags.save_state.empty()) check_writable(flags.save_state);
  const LoadedModel loaded = load_on(*flags.device, flags.model, *flags.dtype);
  const Model& model = *loaded.model;
  const std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(loaded, *flags.tokenizer);
  if (tokenizer == nullptr && !flags.stops.empty()) {
    wrong_usage(
        "--stop needs text, and no tokenizer is known for a vocabulary of {}: give --tokenizer "
        "FILE",
        model.config().vocabulary);
  }
  SamplerOptions sampling =
      sampler_options_of(*flags.sampling, kTextSampling, model, tokenizer.get());
  std::vector<int32_t> prompt = prompt_ids(*flags.prompt, model, tokenizer.get());
  SavedState saved;
  if (!flags.load_state.empty()) {
    saved = load_state(flags.load_state, model, tokenizer.get());
    if (saved.sampler && !flags.sampling->seed) sampling.seed = saved.sampler->seed;
    // Without a prompt nothing is read: the text goes on where it was saved. (No text encodes to
    // 0.)
    const bool no_prompt =
        flags.prompt->ids_option->count() == 0 && prompt == std::vector{kEndOfDocument};
    if (no_prompt) prompt.clear();
    check(!no_prompt || !saved.logits.empty()) ||
        fail(
            "'{}' does not say what its model expected next, and there is no prompt: give one with "
            "-p",
            flags.load_state);
  }

  catch_signals();
  ThreadPool pool(resolve_threads(*flags.threads));
  Session session(model, pool, flags.deterministic);
  Sampler sampler(sampling);
  if (!flags.load_state.empty()) {
    session.set_state(state_of(saved, model), saved.tokens);
    if (saved.sampler) restore_sampler(*saved.sampler, sampler);
  }
  Output output(tokenizer.get(), flags.json);
  Generator generator(sampler, tokenizer.get(),
                      {.most_tokens = flags.tokens,
                       .stops = flags.stops,
                       .top_log_probabilities = flags.top_logprobs});
  if (flags.echo) output.echo(prompt, generator);
  PromptProgress progress;
  const Generated generated = rookery::generate(
      session, generator, prompt,
      {.prompt_progress = [&](int64_t read, int64_t total) { progress.update(read, total); },
       .piece = [&](const Piece& piece) { output.piece(piece); },
       .stop = [&] { return !output.reading() || stop_requested(); }},
      saved.logits);
  check(generated.prompt_read || flags.save_state.empty()) ||
      fail("interrupted before the prompt was read: no state was saved");

  const double rate =
      generated.tokens > 0 ? static_cast<double>(generated.tokens) / generated.seconds : 0;
  if (!flags.save_state.empty()) {
    const std::span<const float> logits =
        generated.unread ? session.feed(*generated.unread) : generated.logits;
    save_state(flags.save_state, session, tokenizer.get(), logits, sampler);
  }
  const std::string_view reason = name_of(generated.reason);
  output.finish(generated.rest, {{"done", true},
                                 {"reason", reason},
                                 {"tokens", generated.tokens},
                                 {"prompt_tokens", prompt.size()},
                                 {"seed", sampling.seed},
                                 {"seconds", generated.seconds},
                                 {"tokens_per_second", rate},
                                 {"prompt_seconds", generated.prompt_seconds}});
  if (output.reading() && !flags.json && !flags.quiet) {
    fmt::print(stderr, "{} tokens, {} tokens/s, ended: {}, seed {}\n", generated.tokens,
               format_count(rate), reason, sampling.seed);
  }
  return 0;
}

}  // namespace

std::function<int()> add_generate(CLI::App& app) {
  CLI::App* verb =
      add_verb(app, "generate", "Continue a text",
               "  rookery generate runs/book -p 'Once upon a time' -n 200\n"
               "  rookery generate model.pth --ids 5,3 --greedy --json\n"
               "  rookery generate runs/book --prompt-file long.txt -n 0 --save-state long.state\n"
               "  rookery generate runs/book --load-state long.state -p 'What next?'");
  auto flags = std::make_shared<GenerateFlags>();
  verb->add_option("MODEL", flags->model, "A model file, or the folder of a training run")
      ->required()
      ->type_name("PATH");
  flags->prompt = add_prompt(*verb);
  verb->add_option("-n,--tokens", flags->tokens, "At most so many tokens; token 0 ends before")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40).description(""))
      ->capture_default_str();
  verb->add_option_function<std::vector<std::string>>(
          "--stop",
          [flags](const std::vector<std::string>& stops) {
            for (const std::string& stop : stops) flags->stops.push_back(unescape(stop));
          },
          "End before this text; \\n, \\t and \\\\ are understood; repeatable")
      ->check(parsed_by(unescape))
      ->type_name("TEXT")
      ->allow_extra_args(false);
  CLI::Option* echo = verb->add_flag("--echo", flags->echo, "Show the prompt, too");
  CLI::Option* json =
      verb->add_flag("--json", flags->json, "One JSON object per token, and one at the end");
  json->excludes(echo);
  verb->add_option("--top-logprobs", flags->top_logprobs, "With --json: so many of the best tokens")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->needs(json)
      ->capture_default_str();
  verb->add_flag("-q,--quiet", flags->quiet, "No line with tokens, rate and seed at the end");
  flags->tokenizer = add_tokenizer(*verb);
  flags->dtype = add_dtype(*verb);
  flags->device = add_device(*verb);
  flags->threads = add_threads(*verb);
  verb->add_flag("--deterministic", flags->deterministic,
                 "Numbers that do not depend on how the prompt is cut; slower");
  const char* states = "Saved states";
  verb->add_option("--load-state", flags->load_state,
                   "Go on after the text whose state this file holds; without a prompt: at once")
      ->type_name("FILE")
      ->group(states);
  verb->add_option("--save-state", flags->save_state, "At the end, write the state to this file")
      ->type_name("FILE")
      ->group(states);
  flags->sampling = add_sampling(*verb, kTextSampling);
  verb->footer(
      "The defaults are those of the rwkv package: temperature 1, top-p 0.85 and, but for models "
      "of\n"
      "bytes, penalties of 0.2. Standard error ends with the seed: --seed repeats the text.");
  return [flags] { return generate(*flags); };
}

}  // namespace rookery::cli
