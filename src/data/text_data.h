// Text files as training tokens. A line that holds nothing but <|endoftext|> ends a document, as
// does the end of a file when there are several; in the tokens stands one 0, the end-of-document
// token, instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace rookery {

inline constexpr std::string_view kDocumentMark = "<|endoftext|>";

struct TextData {
  std::vector<uint8_t> tokens;  // bytes; 0 ends a document
  bool has_documents = false;   // whether there was a mark or more than one file
  uint64_t hash = 0;            // of the tokens (FNV-1a): resuming on another text is refused
};

// Reads text files as bytes. Throws Error for files that cannot be read, that hold a byte 0 (it is
// the end-of-document token), or when all together hold fewer than two bytes.
TextData read_text(std::span<const std::filesystem::path> files);

}  // namespace rookery
