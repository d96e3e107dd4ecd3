// `rookery generate`: reads a prompt and writes what the model says next, token by token.

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <random>

#include "cli/progress.h"
#include "cli/verbs.h"
#include "inference/sampler.h"
#include "inference/session.h"
#include "text/stop_matcher.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

// What the `rwkv` package takes from a token that was there before. Bytes are too few to be spared.
constexpr double kTokenPenalty = 0.2;

struct GenerateOptions {
  std::string model;
  std::shared_ptr<Prompt> prompt;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> tokenizer;
  int64_t tokens = 256;
  SamplerOptions sampling;
  std::optional<double> presence, frequency;
  std::optional<uint64_t> seed;
  std::vector<std::string> stops;
  int top_logprobs = 0;
  bool deterministic = false, greedy = false, echo = false, json = false, quiet = false;
};

// "\n" -> a line break, so that a shell's plain quotes can express it.
std::string unescape(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      result += text[i];
      continue;
    }
    const char code = ++i < text.size() ? text[i] : '\0';
    switch (code) {
      case 'n':
        result += '\n';
        break;
      case 'r':
        result += '\r';
        break;
      case 't':
        result += '\t';
        break;
      case '\\':
        result += '\\';
        break;
      default:
        fail("'{}': expected n, r, t or another backslash after a backslash", text);
    }
  }
  check(!result.empty(), "the text is empty: expected at least one character");
  return result;
}

std::pair<int64_t, float> parse_bias(const std::string& text) {
  std::pair<int64_t, float> bias;
  const char* end = text.data() + text.size();
  const auto id = std::from_chars(text.data(), end, bias.first);
  bool good = id.ec == std::errc() && id.ptr != end && *id.ptr == '=';
  if (good) {
    const auto value = std::from_chars(id.ptr + 1, end, bias.second);
    good = value.ec == std::errc() && value.ptr == end;
  }
  check(good, "'{}' is no bias: expected ID=BIAS, such as 10=-2.5", text);
  return bias;
}

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
    const auto chunk = ids.first(std::min<size_t>(ids.size(), Session::kChunk));
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

SamplerOptions sampler_options(const GenerateOptions& options) {
  SamplerOptions sampling = options.sampling;
  if (options.greedy) sampling.temperature = 0;
  // 32 bits: short enough to be typed again.
  sampling.seed = options.seed ? *options.seed : std::random_device{}();
  sampling.presence = options.presence.value_or(0);
  sampling.frequency = options.frequency.value_or(0);
  try {
    validate(sampling);
  } catch (const Error& error) {
    wrong_usage("{}", error.what());
  }
  return sampling;
}

void fit_to_model(SamplerOptions& sampling, const GenerateOptions& options, const Model& model,
                  const Tokenizer* tokenizer) {
  const int64_t vocabulary = model.config().vocabulary;
  const auto check_id = [&](const char* flag, int64_t id) {
    if (id < vocabulary) return;
    wrong_usage("{}: token {} is not in the vocabulary: this model has tokens 0 to {}", flag, id,
                vocabulary - 1);
  };
  for (const auto& [id, bias] : sampling.logit_bias) check_id("--logit-bias", id);
  for (const int64_t id : sampling.banned) check_id("--ban", id);
  // What text must repeat: spaces and digits.
  for (const char& byte : std::string_view(tokenizer == nullptr ? "" : " \t0123456789")) {
    const std::vector<int32_t> ids = tokenizer->encode(std::string_view(&byte, 1));
    if (ids.size() == 1) sampling.penalty_free_ids.push_back(ids[0]);
  }
  if (tokenizer == nullptr || tokenizer->name() != "bytes") {
    sampling.presence = options.presence.value_or(kTokenPenalty);
    sampling.frequency = options.frequency.value_or(kTokenPenalty);
  }
}

int generate(const GenerateOptions& options) {
  SamplerOptions sampling = sampler_options(options);
  const LoadedModel loaded = load_model(options.model, *options.dtype);
  const std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(loaded, *options.tokenizer);
  if (tokenizer == nullptr && !options.stops.empty()) {
    wrong_usage(
        "--stop needs text, and no tokenizer is known for a vocabulary of {}: give --tokenizer "
        "FILE",
        loaded.model->config().vocabulary);
  }
  fit_to_model(sampling, options, *loaded.model, tokenizer.get());
  const std::vector<int32_t> prompt = prompt_ids(*options.prompt, *loaded.model, tokenizer.get());

  catch_signals();
  ThreadPool pool(resolve_threads(*options.threads));
  Session session(*loaded.model, pool, options.deterministic);
  Sampler sampler(sampling);
  Output output(tokenizer.get(), options.stops, options.json);
  if (options.echo && !output.echo(prompt)) return 0;

  const auto prompt_start = std::chrono::steady_clock::now();
  std::optional<std::span<const float>> logits = read_prompt(session, prompt);
  const double prompt_seconds = seconds_since(prompt_start);

  const auto start = std::chrono::steady_clock::now();
  int64_t made = 0;
  std::string_view reason = "length";
  while (made < options.tokens) {
    if (!logits || stop_requested()) {
      reason = "interrupted";
      break;
    }
    const Sampler::Choice choice = sampler.sample(*logits, options.top_logprobs);
    if (choice.id == 0) {
      reason = "end";
      break;
    }
    sampler.accept(choice.id);
    ++made;
    if (!output.token(choice)) return 0;
    if (output.stopped()) {
      reason = "stop";
      break;
    }
    if (made < options.tokens) logits = session.feed(static_cast<int32_t>(choice.id));
  }
  const double seconds = seconds_since(start);
  const double rate = made > 0 ? static_cast<double>(made) / seconds : 0;

  const bool read = output.finish({{"done", true},
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

void add_sampling(CLI::App& verb, const std::shared_ptr<GenerateOptions>& options) {
  const char* group = "Sampling";
  SamplerOptions& sampling = options->sampling;
  sampling.top_p = 0.85;
  const auto number = [&](const char* flag, auto& value, const char* what) {
    verb.add_option(flag, value, what)->capture_default_str()->group(group);
  };
  number("--temperature", sampling.temperature, "0: always the most probable token");
  number("--top-p", sampling.top_p,
         "The most probable tokens that hold this much together; 1: off");
  number("--top-k", sampling.top_k, "The k most probable tokens; 0: off");
  number("--min-p", sampling.min_p, "At least this part of the most probable one; 0: off");
  number("--typical", sampling.typical_p, "Locally typical tokens of this sum; 1: off");
  verb.add_flag("--greedy", options->greedy, "The same as --temperature 0")->group(group);
  verb.add_option("--presence", options->presence,
                  "Taken from a token that was produced; default: bytes 0, other tokens 0.2")
      ->group(group);
  verb.add_option("--frequency", options->frequency,
                  "The same for each time it was produced; default: bytes 0, other tokens 0.2")
      ->group(group);
  number("--penalty-decay", sampling.penalty_decay,
         "What a token leaves of the penalties before it");
  verb.add_option_function<std::string>(
          "--penalty-mode",
          [options](const std::string& mode) {
            options->sampling.penalty_mode = parse_penalty_mode(mode);
          },
          "Whose penalties: rwkv (the Python package), decayed (ai00) or openai")
      ->check(parsed_by(parse_penalty_mode))
      ->type_name("MODE")
      ->default_str("rwkv")
      ->group(group);
  verb.add_option_function<std::string>(
          "--temperature-order",
          [options](const std::string& order) {
            options->sampling.temperature_order = parse_temperature_order(order);
          },
          "Temperature after the cuts (last, as the rwkv package) or before (first)")
      ->check(parsed_by(parse_temperature_order))
      ->type_name("ORDER")
      ->default_str("last")
      ->group(group);
  verb.add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [options](const std::vector<std::string>& biases) {
            for (const std::string& bias : biases) {
              options->sampling.logit_bias.push_back(parse_bias(bias));
            }
          },
          "Added to the logit of a token; repeatable")
      ->check(parsed_by(parse_bias))
      ->type_name("ID=BIAS")
      ->allow_extra_args(false)
      ->group(group);
  verb.add_option("--ban", sampling.banned, "A token that is never chosen; repeatable")
      ->type_name("ID")
      ->allow_extra_args(false)
      ->group(group);
  verb.add_option("--seed", options->seed,
                  "Of the random numbers; default: a new one, which is shown")
      ->check(CLI::NonNegativeNumber.description(""))
      ->group(group);
}

}  // namespace

std::function<int()> add_generate(CLI::App& app) {
  CLI::App* verb = add_verb(app, "generate", "Continue a text",
                            "  rookery generate runs/book -p 'Once upon a time' -n 200\n"
                            "  rookery generate model.pth --ids 5,3 --greedy --json");
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
  options->threads = add_threads(*verb);
  verb->add_flag("--deterministic", options->deterministic,
                 "Numbers that do not depend on how the prompt is cut; slower");
  add_sampling(*verb, options);
  verb->footer(
      "The defaults are those of the rwkv package: temperature 1, top-p 0.85 and, but for models "
      "of\n"
      "bytes, penalties of 0.2. Standard error ends with the seed: --seed repeats the text.");
  return [options] { return generate(*options); };
}

}  // namespace rookery::cli
