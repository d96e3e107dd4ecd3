// Makes a tokenizer from text: byte-level BPE. Sennrich, Haddow and Birch, "Neural Machine
// Translation of Rare Words with Subword Units" (2016), on bytes: beginning with the 256 bytes, the
// most frequent pair of neighbours within words becomes a token, again and again. Words are the
// pieces of GPT-2's splitting (gpt2_split.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace rookery {

struct BpeTrainingOptions {
  // Ids: the end of a document, the bytes, and one for each merge. 257 to 1048576.
  int64_t vocabulary = 32768;
  // What the table of different words may take. When it is full, the rarest words are dropped, so
  // that text of any size can be read; what is frequent stays. Merging then takes up to about eight
  // times as much, usually three times.
  int64_t word_memory = int64_t{1} << 30;  // bytes, at least 1 MB
  // Called now and then with what is being done, "reading" (bytes) or "merging" (tokens), how much
  // of it is done and how much there is. False: stop.
  std::function<bool(std::string_view phase, int64_t done, int64_t total)> progress = {};
};

struct TrainedBpe {
  // A tokenizer.json as Hugging Face's library reads it. Token 0 is <|endoftext|>, special; tokens
  // 1 to 256 are the bytes 0 to 255; then the merges, by rank. No normal form: text comes back as
  // it was.
  std::string definition;
  int64_t vocabulary = 0;  // smaller than asked for if the text has no more pairs that occur twice
  int64_t bytes = 0;       // read
  int64_t words = 0;       // different ones that were counted
  int64_t dropped = 0;     // words that were dropped for want of memory
};

// The same files and options give the same tokenizer: pairs that are equally frequent are taken by
// their ids. Lines <|endoftext|> end documents and are no text; bytes that are no UTF-8 and words
// of more than 256 bytes are passed over. Throws Error for a bad option, a file that cannot be
// read, or if `progress` says so.
TrainedBpe train_bpe(std::span<const std::filesystem::path> files,
                     const BpeTrainingOptions& options);

}  // namespace rookery
