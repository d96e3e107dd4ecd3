// Inputs of any size, read in blocks: a text file as pieces of documents, a .jsonl file as lines.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace rookery {

// A line that holds nothing but this ends a document in a text file.
inline constexpr std::string_view kDocumentMark = "<|endoftext|>";

// A longer document is given in pieces of at most this many bytes.
inline constexpr int64_t kLongestPiece = int64_t{1} << 20;
// A longer line of a .jsonl file is an error.
inline constexpr int64_t kLongestLine = int64_t{16} << 20;

// A file or a pipe, from its beginning to its end.
class FileBlocks {
 public:
  // Throws Error if there is no such file, or it is a folder.
  explicit FileBlocks(const std::filesystem::path& path);
  // Appends the next block; false at the end. Throws Error if it cannot be read.
  bool append_to(std::string& text);
  int64_t bytes_read() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t bytes_ = 0;
};

// Where to cut `text`, which is longer than `most` bytes, so that both parts make the same tokens
// as the whole: before a space between two ASCII letters. No token of the World vocabulary has a
// letter and a space behind it, and byte-level BPE splits words there, too. If there is none in the
// first `most` bytes: behind the last line end, else between two characters. Then a token or two
// may differ from those of the whole.
int64_t place_to_cut(std::string_view text, int64_t most);

// The documents of a text file: see kDocumentMark. The end of the file ends one, too. The mark's
// line and its line end belong to no document; empty documents are left out.
class TextPieces {
 public:
  explicit TextPieces(const std::filesystem::path& path, int64_t longest = kLongestPiece)
      : reader_(path), longest_(longest) {}
  // The next piece and whether its document ends with it; false at the end of the file. Only the
  // last piece of a document may be empty. Throws Error for a file that cannot be read, or that
  // holds a byte 0: it is no text.
  bool next(std::string& piece, bool& ends);
  int64_t bytes_read() const { return reader_.bytes_read(); }

 private:
  void take(int64_t count, std::string& piece);

  FileBlocks reader_;
  int64_t longest_;
  std::string buffer_;  // [begin_, ..) is not given out yet
  int64_t begin_ = 0;
  int64_t scanned_ = 0;       // no mark's line begins before it
  bool line_start_ = true;    // whether a line begins at begin_
  bool in_document_ = false;  // a piece of this document was given out
  bool at_end_ = false;
};

class Lines {
 public:
  explicit Lines(const std::filesystem::path& path, int64_t longest = kLongestLine)
      : reader_(path), longest_(longest) {}
  // The next line without its end; false at the end of the file. Throws Error for a line longer
  // than `longest` bytes, with its number.
  bool next(std::string& line);
  int64_t number() const { return number_; }  // of the line that next() gave, from 1
  std::string where() const;                  // "items.jsonl:7"
  int64_t bytes_read() const { return reader_.bytes_read(); }

 private:
  FileBlocks reader_;
  int64_t longest_;
  std::string buffer_;
  int64_t begin_ = 0, scanned_ = 0, number_ = 0;
  bool at_end_ = false;
};

}  // namespace rookery
