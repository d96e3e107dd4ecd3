// The flags of the sampler, shared by the verbs that make text.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "inference/sampler.h"
#include "models/model.h"
#include "tokenizers/tokenizer.h"

namespace rookery::cli {

// What holds where no flag says otherwise.
struct SamplingDefaults {
  double top_p = 1;
  int64_t top_k = 0;
  // For tokens that are more than bytes. Bytes are too few to be spared: 0 for them.
  double presence = 0, frequency = 0;
};

struct SamplingFlags {
  SamplerOptions options;  // what has the same default everywhere
  std::optional<double> top_p, presence, frequency;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  bool greedy = false;
};

// --temperature and so on. `shown` are the defaults that --help tells.
std::shared_ptr<SamplingFlags> add_sampling(CLI::App& verb, const SamplingDefaults& shown);

// Ends the program with wrong usage if a flag is out of its range: before a model is loaded.
void check_sampling(const SamplingFlags& flags);

// The options for this model. A seed that was not given is a new one. `tokenizer` may be null.
// Wrong usage if a flag names a token that the model does not have.
SamplerOptions sampler_options(const SamplingFlags& flags, const SamplingDefaults& defaults,
                               const Model& model, const Tokenizer* tokenizer);

// Changes one option by its name: temperature, top-p, top-k, min-p, typical, presence, frequency,
// penalty-decay, penalty-mode, temperature-order or seed ('_' serves as '-'). Throws Error for an
// unknown name and for a value out of range; nothing changes then.
void set_option(SamplerOptions& options, std::string_view name, std::string_view value);

// The names and values that set_option() understands, on one line.
std::string describe(const SamplerOptions& options);

// For --stop: "\n" -> a line break, so that a shell's plain quotes can express it; \t, \r and two
// backslashes, too. Throws Error for other letters after a backslash, and for no text.
std::string unescape(const std::string& text);

}  // namespace rookery::cli
