// The same model in another file format or number type. Tensors go through one at a time; what is
// written appears only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace rookery {

// The formats that are written.
enum class ModelFormat : uint8_t { kSafetensors, kPth, kHuggingface };
// "safetensors", "pth", "hf". The parser throws Error for anything else.
std::string_view name_of(ModelFormat format);
ModelFormat parse_model_format(std::string_view name);
// What the ending of a file's name says; a name without one is a Hugging Face folder. Throws Error
// for other endings.
ModelFormat format_of_file(const std::filesystem::path& path);

struct ConversionOptions {
  ModelFormat format = ModelFormat::kSafetensors;
  std::optional<DType> dtype;  // of all numbers: F32, F16 or BF16; none: as stored
  // Matrices in blocks of Q8_0, where the rows' lengths allow it, all else as stored; safetensors
  // only. Without it blocks stay in a safetensors file and become numbers in the others.
  bool blocks = false;
  int64_t shard_bytes = 5'000'000'000;  // Hugging Face: weights above this are split over files
  bool replace = false;                 // a file that exists; a folder that is not empty never is
  // Bytes of tensors that were written, of how many. What it throws ends the work, and nothing is
  // written.
  std::function<void(int64_t done, int64_t total)> on_progress = {};
};

// Throws Error if the format cannot hold such numbers.
void validate(const ConversionOptions& options);

struct Conversion {
  std::string input_format;  // "pth", ...
  std::string generation;
  std::string dtype;  // of the tensors that were written; "mixed" if they differ
  int64_t tensors = 0, parameters = 0;
  int64_t bytes = 0;                       // of these tensors
  int64_t optimizer_tensors = 0;           // that were left out
  std::filesystem::path tokenizer;         // the file beside a .pth; empty: none
  std::vector<std::string> lost_metadata;  // keys, for which a .pth has no place
};

// Writes the model at `input`, a file or a folder (find_model_file()), to `output`. Names and
// shapes become those of the public training code if the generation is one that this program runs.
// Throws Error for what the format cannot hold, and for a place that is taken.
Conversion convert_model(const std::filesystem::path& input, const std::filesystem::path& output,
                         const ConversionOptions& options);

}  // namespace rookery
