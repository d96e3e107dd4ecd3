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
#include "cli/state_files.h"
#include "inference/sampler.h"
#include "inference/session.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"
#include "text/stop_matcher.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

// Those of the `rwkv` package.
constexpr SamplingDefaults kDefaults = {.top_p = 0.85, .presence = 0.2, .frequency = 0.2};

struct GenerateOptions {
  std::string model;
  std::shared_ptr<Prompt> prompt;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device;
  std::shared_ptr<std::string> tokenizer;
  int64_t tokens = 256;
  std::shared_ptr<SamplingFlags> sampling;
  std::string load_state, save_state;
  std::vector<std::string> stops;
  int top_logprobs = 0;
  bool deterministic = false, echo = false, json = false, quiet = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Shows tokens as text, as ids or as lines of JSON. A member that returns bool is false once nobody
// reads.
class Output {
 public:
  // `tokenizer` may be null: ids are shown.
  Output(const Tokenizer* tokenizer, std::vector<std::string> stops, bool json)
      : tokenizer_(tokenizer), matcher_(std::move(stops)), json_(json) {}

  bool echo(std::span<const int32_t> ids) {
    std::string shown;
    for (const int32_t id : ids) {
      shown += tokenizer_ == nullptr ? next_id(id) : utf8_.push(tokenizer_->bytes_of(id));
    }
    return write(shown);
  }

  bool token(const Sampler::Choice& choice) {
    std::string bytes, text;
    if (tokenizer_ != nullptr) {
      bytes = tokenizer_->bytes_of(static_cast<int32_t>(choice.id));
      text = utf8_.push(matcher_.push(bytes));
    }
    if (!json_) return write(tokenizer_ == nullptr ? next_id(choice.id) : text);
    Json line = {{"id", choice.id}};
    if (!text.empty()) line["text"] = text;
    if (tokenizer_ != nullptr) line["bytes"] = std::vector<uint8_t>(bytes.begin(), bytes.end());
    line["log_probability"] = choice.log_probability;
    if (!choice.top.empty()) {
      Json& top = line["top"] = Json::array();
      for (const auto& [id, log_probability] : choice.top) {
        top.push_back({{"id", id}, {"log_probability", log_probability}});
      }
    }
    return write(line.dump() + "\n");
  }

  bool stopped() const { return matcher_.stopped(); }

  // What was held back, and the end of the line or of the JSON.
  bool finish(Json summary) {
    std::string text = utf8_.push(matcher_.finish());
    text += utf8_.finish();
    if (json_) {
      if (!text.empty()) summary["text"] = text;
      return write(summary.dump() + "\n");
    }
    if (!text.empty()) last_ = text.back();
    // Text is written as it is, but on a terminal the next prompt belongs on a line of its own.
    const bool line_open = last_ != '\n' && last_ != '\0';
    if (line_open && (tokenizer_ == nullptr || isatty(STDOUT_FILENO) != 0)) text += "\n";
    return write(text);
  }

 private:
  std::string next_id(int64_t id) {
    const char* between = first_id_ ? "" : " ";
    first_id_ = false;
    return fmt::format("{}{}", between, id);
  }

  bool write(const std::string& text) {
    if (text.empty()) return true;
    last_ = text.back();
    return write_output(text);
  }

  const Tokenizer* tokenizer_;
  StopMatcher matcher_;
  Utf8Stream utf8_;
  bool json_;
  bool first_id_ = true;
  char last_ = '\0';  // the last byte that was shown
};

// The logits after the prompt; nothing when the user has interrupted. In the pieces that a session
// makes, too, so that the numbers are the same.
std::optional<std::span<const float>> read_prompt(Session& session, std::span<const int32_t> ids) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t total = static_cast<int64_t>(ids.size());
  std::optional<Progress> progress;
  std::span<const float> logits;
  while (!ids.empty()) {
    if (stop_requested()) return std::nullopt;
    const auto chunk = ids.first(std::min<size_t>(ids.size(), session.chunk()));
    ids = ids.subspan(chunk.size());
    logits = session.feed(chunk);
    if (!progress && !ids.empty() && isatty(STDERR_FILENO) != 0 && seconds_since(start) > 2) {
      progress.emplace(stderr, ProgressOptions{.title = "prompt", .total = total});
    }
    if (progress) progress->update(session.position());
  }
  if (progress) progress->finish();
  return logits;
}

// Makes the state file of what the session has read, and of `logits`, those after the last token.
void save_state(const GenerateOptions& options, const Model& model, const Tokenizer* tokenizer,
                const Session& session, std::span<const float> logits, const Sampler& sampler) {
  SavedState saved = saved_state(model, tokenizer, session.state(), session.position());
  saved.logits.assign(logits.begin(), logits.end());
  saved.sampler = saved_sampler(sampler);
  write_state_file(options.save_state, saved);
}

int generate(const GenerateOptions& options) {
  check_sampling(*options.sampling);
  if (!options.save_state.empty()) check_writable(options.save_state);
  const LoadedModel loaded = load_on(*options.device, options.model, *options.dtype);
  const Model& model = *loaded.model;
  const std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(loaded, *options.tokenizer);
  if (tokenizer == nullptr && !options.stops.empty()) {
    wrong_usage(
        "--stop needs text, and no tokenizer is known for a vocabulary of {}: give --tokenizer "
        "FILE",
        model.config().vocabulary);
  }
  SamplerOptions sampling = sampler_options(*options.sampling, kDefaults, model, tokenizer.get());
  std::vector<int32_t> prompt = prompt_ids(*options.prompt, model, tokenizer.get());
  SavedState saved;
  if (!options.load_state.empty()) {
    saved = load_state(options.load_state, model, tokenizer.get());
    if (saved.sampler && !options.sampling->seed) sampling.seed = saved.sampler->seed;
    // Without a prompt nothing is read: the text goes on where it was saved. (No text encodes to
    // 0.)
    const bool no_prompt = options.prompt->ids_option->count() == 0 && prompt == std::vector{0};
    if (no_prompt) prompt.clear();
    check(!no_prompt || !saved.logits.empty()) ||
        fail(
            "'{}' does not say what its model expected next, and there is no prompt: give one with "
            "-p",
            options.load_state);
  }

  catch_signals();
  ThreadPool pool(resolve_threads(*options.threads));
  Session session(model, pool, options.deterministic);
  Sampler sampler(sampling);
  if (!options.load_state.empty()) {
    session.set_state(state_of(saved, model), saved.tokens);
    if (saved.sampler) restore_sampler(*saved.sampler, sampler);
  }
  Output output(tokenizer.get(), options.stops, options.json);
  bool read = !options.echo || output.echo(prompt);

  const auto prompt_start = std::chrono::steady_clock::now();
  std::optional<std::span<const float>> logits = saved.logits;
  if (!prompt.empty()) logits = read_prompt(session, prompt);
  const double prompt_seconds = seconds_since(prompt_start);
  check(logits || options.save_state.empty()) ||
      fail("interrupted before the prompt was read: no state was saved");

  const auto start = std::chrono::steady_clock::now();
  int64_t made = 0;
  std::optional<int32_t> unread;  // the last token, until its successor is wanted
  const auto read_last = [&] {
    if (unread) logits = session.feed(*unread);
    unread.reset();
  };
  std::string_view reason = "length";
  while (read && made < options.tokens) {
    if (!logits || stop_requested()) {
      reason = "interrupted";
      break;
    }
    read_last();
    const Sampler::Choice choice = sampler.sample(*logits, options.top_logprobs);
    if (choice.id == 0) {
      reason = "end";
      break;
    }
    sampler.accept(choice.id);
    unread = static_cast<int32_t>(choice.id);
    ++made;
    read = output.token(choice);
    if (output.stopped()) {
      reason = "stop";
      break;
    }
  }
  const double seconds = seconds_since(start);
  const double rate = made > 0 ? static_cast<double>(made) / seconds : 0;

  if (!options.save_state.empty()) {
    read_last();
    save_state(options, model, tokenizer.get(), session, *logits, sampler);
  }
  read = read && output.finish({{"done", true},
                                {"reason", reason},
                                {"tokens", made},
                                {"prompt_tokens", prompt.size()},
                                {"seed", sampling.seed},
                                {"seconds", seconds},
                                {"tokens_per_second", rate},
                                {"prompt_seconds", prompt_seconds}});
  if (read && !options.json && !options.quiet) {
    fmt::print(stderr, "{} tokens, {} tokens/s, ended: {}, seed {}\n", made, format_count(rate),
               reason, sampling.seed);
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
  auto options = std::make_shared<GenerateOptions>();
  verb->add_option("MODEL", options->model, "A model file, or the folder of a training run")
      ->required()
      ->type_name("PATH");
  options->prompt = add_prompt(*verb);
  verb->add_option("-n,--tokens", options->tokens, "At most so many tokens; token 0 ends before")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40).description(""))
      ->capture_default_str();
  verb->add_option_function<std::vector<std::string>>(
          "--stop",
          [options](const std::vector<std::string>& stops) {
            for (const std::string& stop : stops) options->stops.push_back(unescape(stop));
          },
          "End before this text; \\n, \\t and \\\\ are understood; repeatable")
      ->check(parsed_by(unescape))
      ->type_name("TEXT")
      ->allow_extra_args(false);
  CLI::Option* echo = verb->add_flag("--echo", options->echo, "Show the prompt, too");
  CLI::Option* json =
      verb->add_flag("--json", options->json, "One JSON object per token, and one at the end");
  json->excludes(echo);
  verb->add_option("--top-logprobs", options->top_logprobs,
                   "With --json: so many of the best tokens")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->needs(json)
      ->capture_default_str();
  verb->add_flag("-q,--quiet", options->quiet, "No line with tokens, rate and seed at the end");
  options->tokenizer = add_tokenizer(*verb);
  options->dtype = add_dtype(*verb);
  options->device = add_device(*verb);
  options->threads = add_threads(*verb);
  verb->add_flag("--deterministic", options->deterministic,
                 "Numbers that do not depend on how the prompt is cut; slower");
  const char* states = "Saved states";
  verb->add_option("--load-state", options->load_state,
                   "Go on after the text whose state this file holds; without a prompt: at once")
      ->type_name("FILE")
      ->group(states);
  verb->add_option("--save-state", options->save_state, "At the end, write the state to this file")
      ->type_name("FILE")
      ->group(states);
  options->sampling = add_sampling(*verb, kDefaults);
  verb->footer(
      "The defaults are those of the rwkv package: temperature 1, top-p 0.85 and, but for models "
      "of\n"
      "bytes, penalties of 0.2. Standard error ends with the seed: --seed repeats the text.");
  return [options] { return generate(*options); };
}

}  // namespace rookery::cli
