// Between a model's state and a state file: what a state says of its model, and whether it fits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "formats/state_file.h"
#include "inference/sampler.h"
#include "models/model.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// The state (one slot) of `model` after `tokens` tokens, as a file holds it. `tokenizer` may be
// null.
SavedState saved_state(const Model& model, const Tokenizer* tokenizer, const State& state,
                       int64_t tokens);

// Reads the file. Throws Error if it is not a state of this model: of another generation, size,
// weights or tokenizer, or with items that the generation does not have. `tokenizer` may be null.
SavedState load_state(const std::filesystem::path& path, const Model& model,
                      const Tokenizer* tokenizer);
// The numbers of what load_state() gave.
State state_of(const SavedState& saved, const Model& model);

SavedSampler saved_sampler(const Sampler& sampler);
// Goes on where the saved sampler stopped. With another seed the random numbers begin anew, and
// with penalties of another meaning those that were saved do not count.
void restore_sampler(const SavedSampler& saved, Sampler& sampler);

// Throws Error, as writing would, if the file cannot be written: before the work and not after it.
void check_writable(const std::filesystem::path& path);

}  // namespace rookery
