// Bytes as tokens. The one byte that cannot be a token is 0, the end of a document.
#include "tokenizers/bytes.h"

#include "core/error.h"

namespace rookery {

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  ids.reserve(text.size());
  for (const char character : text) {
    const uint8_t byte = static_cast<uint8_t>(character);
    check(byte != 0,
          "the text has byte 0 at offset {}: expected text, because the byte tokenizer ends "
          "documents with it; remove the byte or use another tokenizer",
          ids.size());
    ids.push_back(byte);
  }
  return ids;
}

std::string ByteTokenizer::decode_one(int64_t id) const {
  check(
      id >= 0 && id < vocab_size(),
      "token {} is not one of the byte tokenizer: expected 0 to {}; is this the model's tokenizer?",
      id, vocab_size() - 1);
  return id == 0 ? std::string() : std::string(1, static_cast<char>(id));
}

}  // namespace rookery
