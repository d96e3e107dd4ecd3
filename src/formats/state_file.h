// A saved state: what a model remembers of a text, so that it can go on without reading the text
// again. A safetensors file:
//   tensors     one F32 tensor for each item of the state, by its name and with its shape; "logits"
//               [V] if there are any
//   metadata    "rookery_state": JSON with the version of this format, the generation, the sizes
//               and the fingerprint of the model, the number of tokens read, the tokenizer's name,
//               and, where they apply, the sampler's state and the messages of a chat;
//               "checksum": of that JSON and of all tensors.
// Knows no model: whether a state fits one is for the caller to find out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace rookery {

struct SavedItem {
  std::string name;
  Shape shape;
  std::vector<float> values;  // shape.count()
};

// Where the random numbers stand, and what the penalties know.
struct SavedSampler {
  uint64_t seed = 0, random_position = 0;
  std::string penalty_mode;
  std::vector<std::pair<int64_t, double>> penalties;  // (id, number), ascending ids
};

struct SavedMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string text, thought;
};

struct SavedChat {
  std::string template_name, user, assistant;  // the names of the two speakers
  std::vector<SavedMessage> messages;
};

struct SavedState {
  std::string generation;                              // "4"
  std::vector<std::pair<std::string, int64_t>> sizes;  // ("layers", 12), ...
  std::string fingerprint;
  int64_t tokens = 0;     // read since the empty state
  std::string tokenizer;  // its name; empty: unknown, ids were given
  std::vector<SavedItem> items;
  std::vector<float> logits;  // [V] after the last token; may be empty
  std::optional<SavedSampler> sampler;
  std::optional<SavedChat> chat;
};

// Writes the file, all or nothing. Throws Error if it cannot be written, would replace a file that
// is no saved state, holds a number that is not
// finite, or a text that is not UTF-8.
void write_state_file(const std::filesystem::path& path, const SavedState& state);

// Throws Error, naming the file, for a file that is no saved state, of another version, cut short
// or changed in any place, and for numbers that are not finite. What it gives was written by
// write_state_file(), unless somebody forged the checksum; then it is well formed all the same.
SavedState read_state_file(const std::filesystem::path& path);

}  // namespace rookery
