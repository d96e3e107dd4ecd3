// Bytes as tokens. The one byte that cannot be a token is 0, the end of a document.
#include "tokenizers/bytes.h"

#include <array>

#include "core/error.h"

namespace rookery {

void ByteTokenizer::encode_to(std::string_view text, std::vector<int32_t>& ids) const {
  const size_t zero = text.find('\0');
  check(zero == std::string_view::npos) ||
      fail(
          "the text has byte 0 at offset {}: expected text, because the byte tokenizer ends "
          "documents with it; remove the byte or use another tokenizer",
          zero);
  ids.reserve(ids.size() + text.size());
  for (const char character : text) ids.push_back(static_cast<uint8_t>(character));
}

std::string_view ByteTokenizer::bytes_of(int32_t id) const {
  static constexpr auto kBytes = [] {
    std::array<char, 256> bytes{};
    for (int byte = 0; byte < 256; ++byte) bytes[byte] = static_cast<char>(byte);
    return bytes;
  }();
  check(id >= 0 && id < vocab_size()) || fail(
                                             "token {} is not one of the byte tokenizer: expected "
                                             "0 to {}; is this the model's tokenizer?",
                                             id, vocab_size() - 1);
  return id == 0 ? std::string_view() : std::string_view(&kBytes[id], 1);
}

}  // namespace rookery
