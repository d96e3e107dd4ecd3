// Text files as training tokens in memory. A line that holds nothing but <|endoftext|> ends a
// document, as does the end of a file when there are several; in the tokens stands one 0, the
// end-of-document token, instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <variant>
#include <vector>

#include "core/threads.h"
#include "data/text_pieces.h"
#include "data/token_span.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct TextData {
  // As small as the vocabulary allows: up to 256, up to 65,536, more.
  std::variant<std::vector<uint8_t>, std::vector<uint16_t>, std::vector<int32_t>> ids;
  bool has_documents = false;  // whether there was a mark or more than one file
  int64_t bytes = 0;           // of text, and one for each end of a document

  TokenSpan tokens() const;
};

// Throws Error for files that cannot be read, that hold a byte 0 (no text does), or when all
// together hold fewer than two tokens. A document of more than kLongestPiece bytes is made into
// tokens in pieces (place_to_cut), all documents by all threads.
TextData read_text(std::span<const std::filesystem::path> files, const Tokenizer& tokenizer,
                   ThreadPool& pool);

}  // namespace rookery
