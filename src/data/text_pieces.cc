#include "data/text_pieces.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <system_error>

#include "core/error.h"

namespace rookery {
namespace {

constexpr size_t kBlock = size_t{1} << 18;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

FileBlocks::FileBlocks(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  check(!std::filesystem::is_directory(path, error)) ||
      fail("expected a file, '{}' is a folder: name the files in it", path.string());
  file_.reset(std::fopen(path.c_str(), "rbe"));
  check(file_ != nullptr) || fail("cannot read '{}' ({}): check the path and its permissions",
                                  path.string(), std::generic_category().message(errno));
}

bool FileBlocks::append_to(std::string& text) {
  const size_t before = text.size();
  text.resize(before + kBlock);
  const size_t got = std::fread(text.data() + before, 1, kBlock, file_.get());
  text.resize(before + got);
  check(got == kBlock || std::ferror(file_.get()) == 0) ||
      fail("cannot read '{}' after {} bytes ({}): check the disk", path_.string(), bytes_,
           std::generic_category().message(errno));
  bytes_ += static_cast<int64_t>(got);
  return got > 0;
}

int64_t place_to_cut(std::string_view text, int64_t most) {
  assert(most > 0 && static_cast<int64_t>(text.size()) > most);
  for (int64_t at = most - 1; at >= 1; --at) {
    if (text[at] == ' ' && is_letter(text[at - 1]) && is_letter(text[at + 1])) return at;
  }
  const size_t line_end = text.rfind('\n', static_cast<size_t>(most) - 1);
  if (line_end != std::string_view::npos) return static_cast<int64_t>(line_end) + 1;
  // A character is at most 4 bytes; the bytes after its first begin with the bits 10.
  for (int64_t at = most; at > std::max<int64_t>(most - 4, 0); --at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) return at;
  }
  return most;
}

void TextPieces::take(int64_t count, std::string& piece) {
  piece.assign(buffer_, static_cast<size_t>(begin_), static_cast<size_t>(count));
  begin_ += count;
  if (count > 0) line_start_ = piece.back() == '\n';
  const size_t zero = piece.find('\0');
  check(zero == std::string::npos) ||
      fail("'{}' holds a byte 0: it is not text (0 is the end-of-document token)",
           reader_.path().string());
}

bool TextPieces::next(std::string& piece, bool& ends) {
  for (;;) {
    const auto size = static_cast<int64_t>(buffer_.size());
    const auto length = static_cast<int64_t>(kDocumentMark.size());
    // The document's end: a mark's line, or the end of the file.
    int64_t end = -1, after = size;
    for (scanned_ = std::max(scanned_, begin_); scanned_ < size;) {
      const size_t at = buffer_.find(kDocumentMark, static_cast<size_t>(scanned_));
      if (at == std::string::npos) {
        // A mark may have begun in the last bytes.
        scanned_ = std::max(scanned_, size - length + 1);
        break;
      }
      const auto mark = static_cast<int64_t>(at);
      const bool whole = mark + length < size || at_end_;
      if (!whole) {
        scanned_ = mark;
        break;
      }
      const bool starts = mark == begin_ ? line_start_ : buffer_[at - 1] == '\n';
      if (starts && (mark + length == size || buffer_[mark + length] == '\n')) {
        end = mark;
        after = std::min(mark + length + 1, size);
        break;
      }
      scanned_ = mark + 1;
    }
    if (end < 0 && at_end_) end = size;
    // What surely belongs to the document.
    const int64_t known = (end < 0 ? std::min(scanned_, size) : end) - begin_;
    if (known > longest_) {
      take(place_to_cut(std::string_view(buffer_).substr(begin_), longest_), piece);
      in_document_ = true;
      ends = false;
      return true;
    }
    if (end >= 0) {
      const bool last = end == size && after == size;
      if (known == 0 && !in_document_) {
        if (last && begin_ == size) return false;
        begin_ = after;
        scanned_ = after;
        line_start_ = true;
        continue;
      }
      take(known, piece);
      begin_ = scanned_ = after;
      line_start_ = true;
      in_document_ = false;
      ends = true;
      return true;
    }
    buffer_.erase(0, static_cast<size_t>(begin_));
    scanned_ -= begin_;
    begin_ = 0;
    at_end_ = !reader_.append_to(buffer_);
  }
}

std::string Lines::where() const { return fmt::format("{}:{}", reader_.path().string(), number_); }

bool Lines::next(std::string& line) {
  for (;;) {
    scanned_ = std::max(scanned_, begin_);
    const size_t end = buffer_.find('\n', static_cast<size_t>(scanned_));
    const bool whole = end != std::string::npos;
    const int64_t length = static_cast<int64_t>(whole ? end : buffer_.size()) - begin_;
    check(length <= longest_) ||
        fail("{}:{}: the line has more than {} bytes: expected one object per line; split it",
             reader_.path().string(), number_ + 1, longest_);
    if (whole || (at_end_ && length > 0)) {
      line.assign(buffer_, static_cast<size_t>(begin_), static_cast<size_t>(length));
      begin_ += length + (whole ? 1 : 0);
      ++number_;
      return true;
    }
    if (at_end_) return false;
    buffer_.erase(0, static_cast<size_t>(begin_));
    begin_ = 0;
    scanned_ = static_cast<int64_t>(buffer_.size());
    at_end_ = !reader_.append_to(buffer_);
  }
}

}  // namespace rookery
