// Prepared data: token ids in the files that Megatron and RWKV's public training code read.
//   NAME.bin   the ids of all sequences end to end, little-endian
//   NAME.idx   "MMIDIDX\0\0", u64 version 1, u8 type of an id, u64 sequences n, u64 entries m,
//              i32 sizes[n] in tokens, i64 pointers[n] in bytes of NAME.bin,
//              i64 documents[m]: the sequence that each document begins with, and the end
//   NAME.mask  ours, optional: a byte per token, 1 if a model should learn to predict this token, 0
//              if not. No header: its size is the number of tokens.
//   NAME.json  ours, optional: what the data was made of (data/prepared.h)
// The types are 4 (i32), 5 (i64) and 8 (u16).
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "data/token_span.h"

namespace rookery {

// The three names of one prepared data set.
std::filesystem::path bin_of(const std::filesystem::path& name);
std::filesystem::path idx_of(const std::filesystem::path& name);
std::filesystem::path mask_of(const std::filesystem::path& name);
std::filesystem::path about_of(const std::filesystem::path& name);

// NAME if `path` is NAME.bin or NAME.idx, or if there is no file `path` but a `path`.idx or
// `path`.bin; else nothing: it is another kind of file.
std::optional<std::filesystem::path> prepared_name(const std::filesystem::path& path);

// Both files, mapped.
class BinIdx {
 public:
  // Throws Error unless the two are whole and fit each other: the sequences follow each other from
  // byte 0 to the end of NAME.bin, and the documents from sequence 0 to the last.
  explicit BinIdx(const std::filesystem::path& name);

  TokenSpan tokens() const { return tokens_; }
  int64_t sequences() const { return sequences_; }
  int32_t size_of_sequence(int64_t index) const;
  int64_t documents() const { return documents_; }

 private:
  MappedFile bin_, idx_;
  TokenSpan tokens_;
  int64_t sequences_ = 0, documents_ = 0;
};

// Writes the files of one data set as its tokens come. Nothing has its name before commit(), and
// without it the destructor removes everything. Holds 4 bytes in memory for each document.
class BinIdxWriter {
 public:
  // u16 if the vocabulary fits in 65,536, else i32. With `masked` false all tokens are learned, and
  // no mask is written. Throws Error if the folder cannot be written.
  BinIdxWriter(const std::filesystem::path& name, int64_t vocabulary, bool masked);

  // Appends to the current document. Throws Error for an id outside the vocabulary, or a full disk.
  void append(std::span<const int32_t> ids, bool learned);
  // Ends the current document with token 0.
  void end_document(bool learned);
  // Puts the files in place, with `about` as NAME.json. The old ones, if there were any, are gone
  // from then on; NAME.idx goes first and comes last, so that no old index ever stands beside new
  // tokens. The documents are ended. Throws Error if there are none.
  void commit(std::string_view about);

  TokenType type() const { return type_; }
  bool has_mask() const { return mask_.has_value(); }
  int64_t tokens() const { return tokens_; }
  int64_t learned() const { return learned_; }
  int64_t documents() const { return static_cast<int64_t>(sizes_.size() - continued_.size()); }
  // Tokens of a sequence at most; a longer document is several sequences. For tests to lower.
  int64_t longest_sequence = (int64_t{1} << 31) - 1;

 private:
  void put(std::span<const int32_t> ids, bool learned);
  void flush();

  std::filesystem::path name_;
  int64_t vocabulary_;
  bool masked_;
  TokenType type_;
  std::optional<AtomicFile> bin_, mask_;  // the mask begins with the first token not to be learned
  std::string bin_buffer_, mask_buffer_;
  std::vector<int32_t> sizes_;      // of the sequences
  std::vector<int64_t> continued_;  // sequences that go on with the document of the one before
  int64_t tokens_ = 0, learned_ = 0;
  int64_t size_ = 0;        // of the sequence that is being written
  bool continues_ = false;  // it is not the first of its document
};

}  // namespace rookery
