#include "evaluation/documents.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/text_data.h"
#include "evaluation/json_line.h"

namespace rookery {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Where the next line that is the mark alone begins; npos if there is none. At the end of `text` a
// mark is whole only if the file ends there.
size_t find_mark(std::string_view text, bool line_start, bool ended) {
  size_t at = text.find(kDocumentMark);
  while (at != std::string_view::npos) {
    const size_t after = at + kDocumentMark.size();
    const bool begins = at == 0 ? line_start : text[at - 1] == '\n';
    if (begins && (after == text.size() ? ended : text[after] == '\n')) return at;
    at = text.find(kDocumentMark, after);
  }
  return at;
}

// Where to cut a text that goes on: as late as possible. At least 1 for a text that is not empty.
size_t cut_of(std::string_view text) {
  for (size_t at = text.size() - 1; at > 0; --at) {
    if (text[at - 1] == '\n' && !is_space(text[at])) return at;
  }
  for (size_t at = text.size() - 1; at > 0; --at) {
    if (is_space(text[at]) && !is_space(text[at - 1])) return at;
  }
  // Before the last character, which may be incomplete.
  for (size_t at = text.size() - 1; at > 0 && at + 4 >= text.size(); --at) {
    if ((static_cast<uint8_t>(text[at]) & 0xC0) != 0x80) return at;
  }
  return text.size();
}

}  // namespace

DocumentReader::DocumentReader(const std::filesystem::path& path, int64_t piece_bytes)
    : path_(path), piece_bytes_(piece_bytes) {
  // A piece that is cut must be longer than the mark, which must not be cut.
  assert(piece_bytes > 2 * static_cast<int64_t>(kDocumentMark.size()));
  if (path.extension() == ".jsonl") {
    lines_ = std::make_unique<LineReader>(path, kMostLineBytes);
  } else {
    blocks_ = std::make_unique<BlockReader>(path);
  }
}

std::string DocumentReader::where() const {
  return lines_ != nullptr ? lines_->where() : path_.string();
}

int64_t DocumentReader::offset() const {
  return lines_ != nullptr ? lines_->offset()
                           : blocks_->offset() - static_cast<int64_t>(held_.size() - begin_);
}

bool DocumentReader::next(DocumentPiece& piece) {
  if (lines_ == nullptr) return next_text(piece);
  std::string_view line;
  while (lines_->next(line)) {
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    given_ = text_field(parse_json_line(line, {"text"}, where()), "text", where());
    piece = {given_, true};
    return true;
  }
  return false;
}

bool DocumentReader::next_text(DocumentPiece& piece) {
  std::string_view text = std::string_view(held_).substr(begin_);
  size_t mark = find_mark(text, line_start_, ended_);
  while (mark == std::string_view::npos && !ended_ &&
         static_cast<int64_t>(text.size()) < piece_bytes_) {
    held_.erase(0, begin_);
    begin_ = 0;
    ended_ = !blocks_->append(held_, piece_bytes_ - static_cast<int64_t>(held_.size()));
    text = held_;
    mark = find_mark(text, line_start_, ended_);
  }
  if (text.empty()) {
    piece = {{}, true};
    return std::exchange(open_, false);
  }
  size_t taken = text.size();
  if (mark != std::string_view::npos) {
    given_ = text.substr(0, mark);
    taken = std::min(mark + kDocumentMark.size() + 1, text.size());  // and its line end
    line_start_ = true;
    open_ = false;
  } else if (ended_) {
    given_ = text;
    open_ = false;
  } else {
    taken = cut_of(text);
    given_ = text.substr(0, taken);
    line_start_ = given_.back() == '\n';
    open_ = true;
  }
  begin_ += taken;
  piece = {given_, !open_};
  return true;
}

}  // namespace rookery
