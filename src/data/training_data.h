// What a run learns from: text files, made into tokens in memory, or prepared data, mapped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/threads.h"
#include "data/binidx.h"
#include "data/prepare.h"
#include "data/text_data.h"
#include "data/token_span.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// NAME.bin, .idx, .mask and .json. Throws Error as BinIdx does, and for a mask or a description
// that does not fit.
struct PreparedData {
  explicit PreparedData(const std::filesystem::path& name);

  BinIdx tokens;
  std::optional<MappedFile> mask_file;
  std::optional<PreparedAbout> about;

  // A byte per token, 1: learned. Empty if there is no mask.
  std::span<const uint8_t> mask() const;
};

struct TrainingData {
  TokenSpan tokens;
  std::span<const uint8_t> mask;  // a byte per token, or empty: everything is learned
  bool has_documents = false;
  uint64_t hash = 0;  // of all tokens, their type, and the mask: resuming on other data is refused
  // Bytes of text, and one for each end of a document, by tokens; 0 if unknown, or if a mask leaves
  // some tokens out.
  double bytes_per_token = 0;

  std::optional<TextData> text;            // where the tokens lie: one of
  std::unique_ptr<PreparedData> prepared;  // the two
};

// Whether these are prepared data. Throws Error if there are several and one of them is.
bool is_prepared(std::span<const std::filesystem::path> files);

// Opens prepared data, or reads text files with this tokenizer, which only they need. Throws Error
// as PreparedData and read_text do.
TrainingData open_training_data(std::span<const std::filesystem::path> files,
                                const Tokenizer* tokenizer, ThreadPool& pool);

// Where the first id at or above `vocabulary` (or below 0) stands; -1 if there is none. `go_on` is
// called every few million tokens with the number that was looked at; when it returns false the
// search ends with -1.
int64_t first_outside(TokenSpan tokens, int64_t vocabulary,
                      const std::function<bool(int64_t)>& go_on);

}  // namespace rookery
