// The tokenizer without a vocabulary file: a token is a byte. For small models trained from
// scratch.
#pragma once

#include <cstdint>

#include "tokenizers/tokenizer.h"

namespace rookery {

// 256 ids; the id of a byte is its value. Id 0 is the end of a document, so text must not contain
// byte 0.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::string_view kName = "bytes";

  std::string_view name() const override { return kName; }
  int64_t vocab_size() const override { return 256; }
  // Throws Error if `text` contains byte 0, with its offset.
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override;
  std::string_view bytes_of(int32_t id) const override;
  std::string definition() const override { return std::string(kName); }
};

}  // namespace rookery
