// The tokenizer without a vocabulary file: a token is a byte. For small models trained from
// scratch.
#pragma once

#include "tokenizers/tokenizer.h"

namespace rookery {

// 256 ids; the id of a byte is its value. Id 0 is the end of a document, so text must not contain
// byte 0.
class ByteTokenizer final : public Tokenizer {
 public:
  std::string_view name() const override { return "bytes"; }
  int64_t vocab_size() const override { return 256; }
  // Throws Error if `text` contains byte 0, with its offset.
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode_one(int64_t id) const override;
};

}  // namespace rookery
