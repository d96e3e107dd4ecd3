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

#include "evaluation/lines.h"

namespace rookery {

// Some of a document's text.
struct DocumentPiece {
  std::string_view text;  // lives until the next piece is read; may be empty
  bool ends = false;      // the document ends behind it
};

class DocumentReader {
 public:
  // A document in plain text is cut into pieces of about this size; one in a .jsonl file, up to
  // kMostLineBytes, is one piece.
  static constexpr int64_t kPieceBytes = int64_t{4} << 20, kMostLineBytes = int64_t{64} << 20;

  explicit DocumentReader(const std::filesystem::path& path, int64_t piece_bytes = kPieceBytes);

  // False at the end of the file. A piece ends where tokens usually do: before a line that does not
  // begin with white space, else at white space, else between characters.
  bool next(DocumentPiece& piece);

  // "text.jsonl:7", or the file alone.
  std::string where() const;
  // Bytes of the file that were read.
  int64_t offset() const;

 private:
  bool next_text(DocumentPiece& piece);

  std::filesystem::path path_;
  int64_t piece_bytes_;
  // One of them reads.
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<BlockReader> blocks_;
  std::string held_, given_;
  size_t begin_ = 0;  // of held_: what comes before was given
  bool ended_ = false;
  bool line_start_ = true;  // whether held_ begins at the beginning of a line
  bool open_ = false;       // pieces of a document were given, but not its end
};

}  // namespace rookery
