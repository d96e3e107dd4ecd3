#include "evaluation/documents.h"

#include "core/error.h"
#include "evaluation/json_line.h"

namespace rookery {

DocumentReader::DocumentReader(const std::filesystem::path& path, int64_t longest) : path_(path) {
  if (path.extension() == ".jsonl") {
    lines_ = std::make_unique<Lines>(path);
  } else {
    pieces_ = std::make_unique<TextPieces>(path, longest);
  }
}

std::string DocumentReader::where() const {
  return lines_ != nullptr ? lines_->where() : path_.string();
}

int64_t DocumentReader::offset() const {
  return lines_ != nullptr ? lines_->bytes_read() : pieces_->bytes_read();
}

bool DocumentReader::next(DocumentPiece& piece) {
  if (lines_ == nullptr) {
    if (!pieces_->next(given_, piece.ends)) return false;
    piece.text = given_;
    return true;
  }
  while (lines_->next(line_)) {
    if (line_.find_first_not_of(" \t\r") == std::string::npos) continue;
    given_ = text_field(parse_json_line(line_, {"text"}, where()), "text", where());
    piece = {given_, true};
    return true;
  }
  return false;
}

}  // namespace rookery
