#include "generation/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "text/utf8_stream.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

template <class T>
T parse_number(std::string_view name, std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, value);
  check(error == std::errc() && next == end && !text.empty()) ||
      fail("{}: invalid value '{}': expected a {}number", name, printable(text),
           std::is_integral_v<T> ? "whole " : "");
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

const SamplingDefaults& chat_sampling(const ModelConfig& config) {
  return config.generation == "7" ? kChatSampling7 : kChatSampling;
}

void validate(const SamplingChoices& choices) {
  SamplerOptions options = choices.options;
  options.top_p = choices.top_p.value_or(1);
  options.top_k = choices.top_k.value_or(0);
  options.presence = choices.presence.value_or(0);
  options.frequency = choices.frequency.value_or(0);
  validate(options);
}

SamplerOptions sampler_options(const SamplingChoices& choices, const SamplingDefaults& defaults,
                               const ModelConfig& config, const Tokenizer* tokenizer) {
  SamplerOptions options = choices.options;
  const auto check_id = [&](const char* option, int64_t id) {
    check(id < config.vocabulary) ||
        fail("{}: token {} is not in the vocabulary: this model has tokens 0 to {}", option, id,
             config.vocabulary - 1);
  };
  for (const auto& [id, bias] : options.logit_bias) check_id("logit bias", id);
  for (const int64_t id : options.banned) check_id("banned tokens", id);
  if (choices.greedy) options.temperature = 0;
  options.seed = choices.seed ? *choices.seed : std::random_device{}();
  const bool bytes = tokenizer != nullptr && tokenizer->name() == ByteTokenizer::kName;
  options.top_p = choices.top_p.value_or(defaults.top_p);
  options.top_k = choices.top_k.value_or(defaults.top_k);
  options.presence = choices.presence.value_or(bytes ? 0 : defaults.presence);
  options.frequency = choices.frequency.value_or(bytes ? 0 : defaults.frequency);
  if (tokenizer != nullptr) {
    options.penalty_free_ids = penalty_free_ids(*tokenizer);
    // Rows of the head that only fill it up to a round size: they stand for no bytes.
    for (int64_t id = tokenizer->padding_begin(); id < config.vocabulary; ++id) {
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

std::string to_string(const SamplerOptions& o) {
  return fmt::format(
      "temperature={} top-p={} top-k={} min-p={} typical={} presence={} frequency={} "
      "penalty-decay={} penalty-mode={} temperature-order={} seed={}",
      o.temperature, o.top_p, o.top_k, o.min_p, o.typical_p, o.presence, o.frequency,
      o.penalty_decay, name_of(o.penalty_mode), name_of(o.temperature_order), o.seed);
}

}  // namespace rookery
