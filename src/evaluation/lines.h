// Files read piece by piece, so that memory does not depend on their size.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace rookery {

// The bytes of a file or a pipe, in blocks.
class BlockReader {
 public:
  // Throws Error if it cannot be opened.
  explicit BlockReader(const std::filesystem::path& path);

  // Appends at most `bytes` to `text`; false at the end of the file. Throws Error if the file
  // cannot be read.
  bool append(std::string& text, int64_t bytes);

  const std::filesystem::path& path() const { return path_; }
  // Bytes read so far.
  int64_t offset() const { return offset_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t offset_ = 0;
};

// The lines of a file, without their ends (\n or \r\n).
class LineReader {
 public:
  LineReader(const std::filesystem::path& path, int64_t most_bytes);

  // False at the end. The line lives until the next call. Throws Error, with file and line, for a
  // line of more than `most_bytes`.
  bool next(std::string_view& line);

  // Of the line that next() gave, from 1.
  int64_t number() const { return number_; }
  // "items.jsonl:7"
  std::string where() const;
  // Bytes of the lines given so far.
  int64_t offset() const { return offset_; }

 private:
  BlockReader reader_;
  int64_t most_bytes_;
  std::string held_;   // bytes read and not yet given out
  size_t begin_ = 0;   // of held_: where the next line begins
  size_t search_ = 0;  // of held_: no line end before it
  bool ended_ = false;
  int64_t number_ = 0, offset_ = 0;
};

}  // namespace rookery
