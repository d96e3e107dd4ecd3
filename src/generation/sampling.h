// How tokens are chosen where nobody said so, by task, generation and vocabulary; and the sampler's
// options by their names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "inference/sampler.h"
#include "models/model.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct SamplingDefaults {
  double top_p = 1;
  int64_t top_k = 0;
  // For tokens that are more than bytes. Bytes are too few to be spared: 0 for them.
  double presence = 0, frequency = 0;
};

// For text that goes on: those of the `rwkv` Python package.
inline constexpr SamplingDefaults kTextSampling = {
    .top_p = 0.85, .presence = 0.2, .frequency = 0.2};
// For a conversation: those of the chat program that came with the Raven and World models; for
// RWKV-7 what the model cards of "G1" advise, since thoughts need their words again and again.
inline constexpr SamplingDefaults kChatSampling = {.top_p = 0.3, .presence = 0.5, .frequency = 0.5};
inline constexpr SamplingDefaults kChatSampling7 = {.top_p = 0.5, .top_k = 100};
const SamplingDefaults& chat_sampling(const ModelConfig& config);

// What a user chose. What is empty takes the default of the task and the model.
struct SamplingChoices {
  SamplerOptions options;  // what has the same default everywhere, and fields that are not below
  std::optional<double> top_p, presence, frequency;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  bool greedy = false;  // the same as temperature 0
};

// Throws Error for a choice out of its range: before a model is loaded.
void validate(const SamplingChoices& choices);

// The options for this model. A seed that was not chosen is a new one, of 32 bits: short enough to
// be typed again. `tokenizer` may be null. Ids that stand for no bytes are banned. Throws Error if
// a choice names a token that the model does not have.
SamplerOptions sampler_options(const SamplingChoices& choices, const SamplingDefaults& defaults,
                               const ModelConfig& config, const Tokenizer* tokenizer);

// Changes one option by its name: temperature, top-p, top-k, min-p, typical, presence, frequency,
// penalty-decay, penalty-mode, temperature-order or seed ('_' serves as '-'). Throws Error for an
// unknown name and for a value out of range; nothing changes then.
void set_option(SamplerOptions& options, std::string_view name, std::string_view value);

// The names and values that set_option() understands, on one line.
std::string to_string(const SamplerOptions& options);

}  // namespace rookery
