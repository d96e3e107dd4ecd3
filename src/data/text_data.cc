#include "data/text_data.h"

#include <cstring>

#include "core/file.h"

namespace rookery {
namespace {

// Appends one file; returns whether it held a document mark.
bool append(const std::filesystem::path& path, std::vector<uint8_t>& tokens) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  const size_t zero = text.find('\0');
  check(zero == std::string_view::npos,
        "'{}' holds a byte 0 at {}: it is not text (0 is the end-of-document token)", path.string(),
        zero);
  bool marked = false;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t at = text.find(kDocumentMark, begin);
    // Only as a line of its own.
    while (at != std::string_view::npos) {
      const size_t after = at + kDocumentMark.size();
      if ((at == 0 || text[at - 1] == '\n') && (after == text.size() || text[after] == '\n')) break;
      at = text.find(kDocumentMark, after);
    }
    const size_t end = std::min(at, text.size());
    tokens.insert(tokens.end(), text.begin() + begin, text.begin() + end);
    if (at == std::string_view::npos) break;
    marked = true;
    tokens.push_back(0);
    begin = at + kDocumentMark.size();
    if (begin < text.size()) ++begin;  // the mark's own line end
  }
  return marked;
}

}  // namespace

TextData read_text(std::span<const std::filesystem::path> files) {
  check(!files.empty(), "no text to learn from: name at least one file");
  TextData data;
  for (const std::filesystem::path& file : files) {
    if (append(file, data.tokens)) data.has_documents = true;
    if (files.size() > 1) {
      data.has_documents = true;
      if (!data.tokens.empty() && data.tokens.back() != 0) data.tokens.push_back(0);
    }
  }
  check(data.tokens.size() >= 2,
        "the text has {} bytes: at least 2 are needed to predict one from the other",
        data.tokens.size());
  data.hash = 14695981039346656037ull;
  for (const uint8_t token : data.tokens) data.hash = (data.hash ^ token) * 1099511628211ull;
  return data;
}

}  // namespace rookery
