// The flags of the sampler, shared by the commands that make text.
#pragma once

#include <CLI/CLI.hpp>

#include <memory>
#include <string>

#include "generation/sampling.h"

namespace rookery::cli {

// --temperature and so on. `shown` are the defaults that --help tells.
std::shared_ptr<SamplingChoices> add_sampling(CLI::App& verb, const SamplingDefaults& shown);

// Wrong usage if a flag is out of its range: before a model is loaded.
void check_sampling(const SamplingChoices& choices);

// sampler_options(). Wrong usage if a flag names a token that the model does not have.
SamplerOptions sampler_options_of(const SamplingChoices& choices, const SamplingDefaults& defaults,
                                  const Model& model, const Tokenizer* tokenizer);

// For --stop: "\n" -> a line break, so that a shell's plain quotes can express it; \t, \r and two
// backslashes, too. Throws Error for other letters after a backslash, and for no text.
std::string unescape(const std::string& text);

}  // namespace rookery::cli
