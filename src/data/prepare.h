// Text of any size into prepared data (data/binidx.h): read in blocks, made into tokens by all
// threads in the order of the inputs, and written as it comes.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "data/json_line.h"
#include "data/token_span.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct PrepareOptions {
  ChatTemplate chat = chat_template("world");  // of conversations
  bool masked = true;                          // false: of a conversation everything is learned
  bool skip_invalid = false;  // leave out lines that cannot be used, and count them
};

// What NAME.json says of the data beside it.
struct PreparedAbout {
  int64_t documents = 0;
  int64_t tokens = 0;   // with the 0 that ends each document
  int64_t learned = 0;  // tokens that a model should learn to predict
  int64_t bytes = 0;    // of text: what the tokens stand for
  int64_t largest_id = 0;
  int64_t vocabulary = 0;      // of the tokenizer
  std::string tokenizer_name;  // "bytes", ...
  std::string tokenizer;       // Tokenizer::definition()

  // With a byte for each end of a document.
  double bytes_per_token() const {
    return static_cast<double>(bytes + documents) / static_cast<double>(tokens);
  }
};
nlohmann::json to_json(const PreparedAbout& about);
// Throws Error for what is not such a text, or says what cannot be.
PreparedAbout about_from_json(std::string_view text, std::string_view source);

struct PrepareProgress {
  int64_t bytes_read = 0;  // of all inputs
  int64_t documents = 0, tokens = 0;
};

struct PrepareResult {
  PreparedAbout about;
  TokenType type = TokenType::kU16;
  bool has_mask = false;
  int64_t invalid = 0;        // lines left out
  std::string first_invalid;  // why, of the first
};

// Makes `name`.bin, .idx, .json and, if there is anything that should not be learned, .mask. An
// input whose name ends in .jsonl is read line by line (data/json_line.h), any other as text (data/
// text_pieces.h). `go_on` is called every few MB; when it returns false nothing is written and
// nothing is returned. Throws Error, with file and line, for an input that cannot be used.
std::optional<PrepareResult> prepare(std::span<const std::filesystem::path> inputs,
                                     const std::filesystem::path& name, const Tokenizer& tokenizer,
                                     const PrepareOptions& options, ThreadPool& pool,
                                     const std::function<bool(const PrepareProgress&)>& go_on);

}  // namespace rookery
