// A tokenizer for tests: ids other than bytes, a token of two bytes, and any vocabulary.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// Byte b is token b + 1; a space with the letter behind it is one of the last 256 tokens. It cannot
// express '~'.
class SpaceTokenizer final : public Tokenizer {
 public:
  explicit SpaceTokenizer(int64_t vocabulary = 600) : vocabulary_(vocabulary) {
    for (int byte = 0; byte < 256; ++byte) {
      singles_.push_back(std::string(1, static_cast<char>(byte)));
      pairs_.push_back(std::string(" ") + static_cast<char>(byte));
    }
  }
  std::string_view name() const override { return "space"; }
  int64_t vocab_size() const override { return vocabulary_; }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override {
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      check(byte != '~') || fail("there is no token for '~' at {}", i);
      if (byte == ' ' && i + 1 < text.size() && text[i + 1] >= 'a' && text[i + 1] <= 'z') {
        ids.push_back(first_pair() + text[++i]);
      } else {
        ids.push_back(byte + 1);
      }
    }
  }
  std::string_view bytes_of(int32_t id) const override {
    check(id >= 0 && id < vocabulary_) || fail("no token {}", id);
    if (id == 0) return "";
    return id >= first_pair() ? pairs_.at(static_cast<size_t>(id - first_pair()))
                              : singles_.at(static_cast<size_t>(id - 1));
  }
  std::string definition() const override { return "space " + std::to_string(vocabulary_); }

 private:
  int32_t first_pair() const { return static_cast<int32_t>(vocabulary_ - 256); }
  int64_t vocabulary_;
  std::vector<std::string> singles_, pairs_;
};

}  // namespace rookery
