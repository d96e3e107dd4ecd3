#include "data/text_data.h"

#include <cstring>

#include "core/error.h"
#include "io/file.h"

namespace rookery {
namespace {

// A part of a file, and whether a document ends behind it.
struct Part {
  std::string_view text;
  bool ends = false;
};

// Appends the parts of one file; returns whether it held a document mark.
bool append(const MappedFile& file, std::vector<Part>& parts) {
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  const size_t zero = text.find('\0');
  check(zero == std::string_view::npos) ||
      fail("'{}' holds a byte 0 at {}: it is not text (0 is the end-of-document token)",
           file.path().string(), zero);
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
    const bool ends = at != std::string_view::npos;
    std::string_view rest = text.substr(begin, std::min(at, text.size()) - begin);
    while (static_cast<int64_t>(rest.size()) > kLongestPiece) {
      const auto cut = static_cast<size_t>(place_to_cut(rest, kLongestPiece));
      parts.push_back({rest.substr(0, cut), false});
      rest.remove_prefix(cut);
    }
    parts.push_back({rest, ends});
    if (!ends) break;
    marked = true;
    begin = at + kDocumentMark.size();
    if (begin < text.size()) ++begin;  // the mark's own line end
  }
  return marked;
}

// Ids of all parts in their order. Parts are taken a batch at a time: 4 bytes for each byte of all
// the text would be much.
template <class Id>
void encode(const std::vector<Part>& parts, const Tokenizer& tokenizer, ThreadPool& pool,
            size_t bytes, std::vector<Id>& ids) {
  const int64_t batch = int64_t{8} * pool.threads();
  std::vector<std::vector<int32_t>> encoded(static_cast<size_t>(batch));
  const auto count = static_cast<int64_t>(parts.size());
  if constexpr (sizeof(Id) == 1) ids.reserve(bytes);  // elsewhere the number is not known
  for (int64_t begin = 0; begin < count;) {
    // Small documents go together, so that a task is worth a hand-over.
    std::vector<int64_t> borders{begin};
    while (borders.back() < count && static_cast<int64_t>(borders.size()) <= batch) {
      int64_t end = borders.back(), bytes = 0;
      while (end < count && bytes < kLongestPiece / 4) {
        bytes += static_cast<int64_t>(parts[static_cast<size_t>(end++)].text.size());
      }
      borders.push_back(end);
    }
    const auto tasks = static_cast<int64_t>(borders.size()) - 1;
    pool.run(tasks, [&](int64_t task, int) {
      std::vector<int32_t>& out = encoded[static_cast<size_t>(task)];
      out.clear();
      for (int64_t i = borders[static_cast<size_t>(task)];
           i < borders[static_cast<size_t>(task) + 1]; ++i) {
        const Part& part = parts[static_cast<size_t>(i)];
        tokenizer.encode_to(part.text, out);
        if (part.ends) out.push_back(0);
      }
    });
    for (int64_t task = 0; task < tasks; ++task) {
      for (const int32_t id : encoded[static_cast<size_t>(task)]) {
        check(id >= 0 && id < tokenizer.vocab_size()) ||
            fail("the tokenizer gave token {}: its vocabulary has 0 to {}; is its file whole?", id,
                 tokenizer.vocab_size() - 1);
        ids.push_back(static_cast<Id>(id));
      }
    }
    begin = borders.back();
  }
}

}  // namespace

TokenSpan TextData::tokens() const {
  return std::visit([](const auto& all) { return TokenSpan(std::span(all)); }, ids);
}

TextData read_text(std::span<const std::filesystem::path> files, const Tokenizer& tokenizer,
                   ThreadPool& pool) {
  check(!files.empty()) || fail("no text to learn from: name at least one file");
  TextData data;
  std::vector<MappedFile> mapped;
  std::vector<Part> parts;
  for (const std::filesystem::path& file : files) {
    check(file.extension() != ".jsonl") ||
        fail(
            "'{}' is no plain text: make tokens of its documents with rookery data prepare, and "
            "train on these",
            file.string());
    mapped.emplace_back(file);
    const size_t before = parts.size();
    if (append(mapped.back(), parts)) data.has_documents = true;
    if (files.size() > 1) {
      data.has_documents = true;
      if (parts.size() > before) parts.back().ends = true;
    }
  }
  for (const Part& part : parts) {
    data.bytes += static_cast<int64_t>(part.text.size()) + (part.ends ? 1 : 0);
  }
  if (tokenizer.vocab_size() > 65536) {
    data.ids = std::vector<int32_t>();
  } else if (tokenizer.vocab_size() > 256) {
    data.ids = std::vector<uint16_t>();
  }
  std::visit(
      [&](auto& ids) { encode(parts, tokenizer, pool, static_cast<size_t>(data.bytes), ids); },
      data.ids);
  const TokenSpan tokens = data.tokens();
  check(tokens.size() >= 2) ||
      fail("the text has {} tokens: at least 2 are needed to predict one from the other",
           tokens.size());
  return data;
}

}  // namespace rookery
