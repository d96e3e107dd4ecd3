#include "cli/sampling.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>
#include <vector>

#include "cli/options.h"
#include "core/error.h"

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
  check(good) || fail("invalid bias '{}': expected ID=BIAS, such as 10=-2.5", text);
  return bias;
}

// Errors are about flags: wrong usage.
template <class F>
auto of_flags(const F& f) {
  try {
    return f();
  } catch (const Error& error) {
    wrong_usage("{}", error.what());
  }
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
  check(!result.empty()) || fail("the text is empty: expected at least one character");
  return result;
}

void check_sampling(const SamplingChoices& choices) {
  of_flags([&] { validate(choices); });
}

SamplerOptions sampler_options_of(const SamplingChoices& choices, const SamplingDefaults& defaults,
                                  const Model& model, const Tokenizer* tokenizer) {
  return of_flags([&] { return sampler_options(choices, defaults, model.config(), tokenizer); });
}

std::shared_ptr<SamplingChoices> add_sampling(CLI::App& verb, const SamplingDefaults& shown) {
  auto flags = std::make_shared<SamplingChoices>();
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
  verb.add_option(
          "--presence", flags->presence,
          fmt::format("Taken from a token that was produced; default: bytes 0, other tokens {}",
                      shown.presence))
      ->group(kGroup);
  verb.add_option(
          "--frequency", flags->frequency,
          fmt::format("The same for each time it was produced; default: bytes 0, other tokens {}",
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
