// The documents of text files, piece by piece, so that a file or a document of any size needs
// little memory. In plain text a line that holds nothing but <|endoftext|> ends a document (as for
// training, data/text_data.h), as does the end of the file. In a file named .jsonl each line is
// {"text": ...}, a document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "data/text_pieces.h"

namespace rookery {

// Some of a document's text.
struct DocumentPiece {
  std::string_view text;  // lives until the next piece is read; may be empty
  bool ends = false;      // the document ends behind it
};

class DocumentReader {
 public:
  // A document in plain text is cut into pieces of at most this size (place_to_cut); one in a
  // .jsonl file is one piece.
  explicit DocumentReader(const std::filesystem::path& path, int64_t longest = kLongestPiece);

  // False at the end of the file. The piece lives until the next call.
  bool next(DocumentPiece& piece);

  // "text.jsonl:7", or the file alone.
  std::string where() const;
  // Bytes of the file that were read.
  int64_t offset() const;

 private:
  std::filesystem::path path_;
  // One of them reads.
  std::unique_ptr<Lines> lines_;
  std::unique_ptr<TextPieces> pieces_;
  std::string line_, given_;
};

}  // namespace rookery
