#include "cli/sampling.h"

#include <algorithm>
#include <charconv>
#include <random>

namespace rookery::cli {
namespace {

constexpr const char* kGroup = "Sampling";

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

template <class T>
T parse_number(std::string_view name, std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, value);
  check(error == std::errc() && next == end && !text.empty(), "{}: '{}' is no {}number", name,
        printable(text), std::is_integral_v<T> ? "whole " : "");
  return value;
}

// Space, tab and digits: the `rwkv` package lets text have them again and again.
std::vector<int64_t> penalty_free_ids(const Tokenizer& tokenizer) {
  std::vector<int64_t> free;
  for (const char c : std::string_view(" \t0123456789")) {
    const std::vector<int32_t> ids = tokenizer.encode(std::string_view(&c, 1));
    if (ids.size() == 1) free.push_back(ids.front());
  }
  return free;
}

}  // namespace

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

void check_sampling(const SamplingFlags& flags) {
  SamplerOptions options = flags.options;
  options.top_p = flags.top_p.value_or(1);
  options.top_k = flags.top_k.value_or(0);
  options.presence = flags.presence.value_or(0);
  options.frequency = flags.frequency.value_or(0);
  try {
    validate(options);
  } catch (const Error& error) {
    wrong_usage("{}", error.what());
  }
}

SamplerOptions sampler_options(const SamplingFlags& flags, const SamplingDefaults& defaults,
                               const Model& model, const Tokenizer* tokenizer) {
  SamplerOptions options = flags.options;
  const int64_t vocabulary = model.config().vocabulary;
  const auto check_id = [&](const char* flag, int64_t id) {
    if (id < vocabulary) return;
    wrong_usage("{}: token {} is not in the vocabulary: this model has tokens 0 to {}", flag, id,
                vocabulary - 1);
  };
  for (const auto& [id, bias] : options.logit_bias) check_id("--logit-bias", id);
  for (const int64_t id : options.banned) check_id("--ban", id);
  if (flags.greedy) options.temperature = 0;
  // 32 bits: short enough to be typed again.
  options.seed = flags.seed ? *flags.seed : std::random_device{}();
  const bool bytes = tokenizer != nullptr && tokenizer->name() == "bytes";
  options.top_p = flags.top_p.value_or(defaults.top_p);
  options.top_k = flags.top_k.value_or(defaults.top_k);
  options.presence = flags.presence.value_or(bytes ? 0 : defaults.presence);
  options.frequency = flags.frequency.value_or(bytes ? 0 : defaults.frequency);
  if (tokenizer != nullptr) {
    options.penalty_free_ids = penalty_free_ids(*tokenizer);
    // Rows of the head that only fill it up to a round size.
    for (int64_t id = tokenizer->padding_begin(); id < vocabulary; ++id) {
      options.banned.push_back(id);
    }
  }
  return options;
}

void set_option(SamplerOptions& options, std::string_view name, std::string_view value) {
  std::string key(name);
  std::replace(key.begin(), key.end(), '_', '-');
  SamplerOptions changed = options;
  const std::pair<std::string_view, double*> numbers[] = {
      {"temperature", &changed.temperature},
      {"top-p", &changed.top_p},
      {"min-p", &changed.min_p},
      {"typical", &changed.typical_p},
      {"presence", &changed.presence},
      {"frequency", &changed.frequency},
      {"penalty-decay", &changed.penalty_decay},
  };
  const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                    [&](const auto& entry) { return entry.first == key; });
  if (number != std::end(numbers)) {
    *number->second = parse_number<double>(key, value);
  } else if (key == "top-k") {
    changed.top_k = parse_number<int64_t>(key, value);
  } else if (key == "seed") {
    changed.seed = parse_number<uint64_t>(key, value);
  } else if (key == "penalty-mode") {
    changed.penalty_mode = parse_penalty_mode(value);
  } else if (key == "temperature-order") {
    changed.temperature_order = parse_temperature_order(value);
  } else {
    fail(
        "the sampler has no option '{}': expected temperature, top-p, top-k, min-p, typical, "
        "presence, frequency, penalty-decay, penalty-mode, temperature-order or seed",
        printable(name));
  }
  validate(changed);
  options = std::move(changed);
}

std::string describe(const SamplerOptions& o) {
  return fmt::format(
      "temperature={} top-p={} top-k={} min-p={} typical={} presence={} frequency={} "
      "penalty-decay={} penalty-mode={} temperature-order={} seed={}",
      o.temperature, o.top_p, o.top_k, o.min_p, o.typical_p, o.presence, o.frequency,
      o.penalty_decay, name_of(o.penalty_mode), name_of(o.temperature_order), o.seed);
}

std::shared_ptr<SamplingFlags> add_sampling(CLI::App& verb, const SamplingDefaults& shown) {
  auto flags = std::make_shared<SamplingFlags>();
  SamplerOptions& options = flags->options;
  const auto number = [&](const char* flag, auto& value, const char* what) {
    verb.add_option(flag, value, what)->capture_default_str()->group(kGroup);
  };
  const auto number_or = [&](const char* flag, auto& value, const char* what, const auto& usual) {
    verb.add_option(flag, value, what)->default_str(fmt::format("{}", usual))->group(kGroup);
  };
  number("--temperature", options.temperature, "0: always the most probable token");
  number_or("--top-p", flags->top_p,
            "The most probable tokens that hold this much together; 1: off", shown.top_p);
  number_or("--top-k", flags->top_k, "The k most probable tokens; 0: off", shown.top_k);
  number("--min-p", options.min_p, "At least this part of the most probable one; 0: off");
  number("--typical", options.typical_p, "Locally typical tokens of this sum; 1: off");
  verb.add_flag("--greedy", flags->greedy, "The same as --temperature 0")->group(kGroup);
  verb.add_option("--presence", flags->presence,
                  fmt::format("Taken from a token that was produced; default: bytes 0, other "
                              "tokens {}",
                              shown.presence))
      ->group(kGroup);
  verb.add_option("--frequency", flags->frequency,
                  fmt::format("The same for each time it was produced; default: bytes 0, other "
                              "tokens {}",
                              shown.frequency))
      ->group(kGroup);
  number("--penalty-decay", options.penalty_decay,
         "What a token leaves of the penalties before it");
  verb.add_option_function<std::string>(
          "--penalty-mode",
          [flags](const std::string& mode) {
            flags->options.penalty_mode = parse_penalty_mode(mode);
          },
          "Whose penalties: rwkv (the Python package), decayed (ai00) or openai")
      ->check(parsed_by(parse_penalty_mode))
      ->type_name("MODE")
      ->default_str("rwkv")
      ->group(kGroup);
  verb.add_option_function<std::string>(
          "--temperature-order",
          [flags](const std::string& order) {
            flags->options.temperature_order = parse_temperature_order(order);
          },
          "Temperature after the cuts (last, as the rwkv package) or before (first)")
      ->check(parsed_by(parse_temperature_order))
      ->type_name("ORDER")
      ->default_str("last")
      ->group(kGroup);
  verb.add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [flags](const std::vector<std::string>& biases) {
            for (const std::string& bias : biases) {
              flags->options.logit_bias.push_back(parse_bias(bias));
            }
          },
          "Added to the logit of a token; repeatable")
      ->check(parsed_by(parse_bias))
      ->type_name("ID=BIAS")
      ->allow_extra_args(false)
      ->group(kGroup);
  verb.add_option("--ban", options.banned, "A token that is never chosen; repeatable")
      ->type_name("ID")
      ->allow_extra_args(false)
      ->group(kGroup);
  verb.add_option("--seed", flags->seed,
                  "Of the random numbers; default: a new one, which is shown")
      ->check(CLI::NonNegativeNumber.description(""))
      ->group(kGroup);
  return flags;
}

}  // namespace rookery::cli
