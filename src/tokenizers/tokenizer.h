// What every tokenizer does: bytes to token ids and back. Token 0 is the end of a document in all
// of them; it stands for no bytes, and no text encodes to it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rookery {

// Constant after construction: one tokenizer serves any number of threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // "bytes", ...: the name in flags, reports and saved models.
  virtual std::string_view name() const = 0;

  // Ids are 0 .. vocab_size() - 1.
  virtual int64_t vocab_size() const = 0;

  // The ids of `text`, which is any bytes. Throws Error for bytes that the vocabulary cannot
  // express.
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;

  // The bytes of one id: not always whole characters, and none for id 0. Throws Error for an id
  // outside the vocabulary.
  virtual std::string decode_one(int64_t id) const = 0;

  // The bytes of the ids, laid end to end. Errors as for decode_one().
  std::string decode(std::span<const int64_t> ids) const {
    std::string bytes;
    for (const int64_t id : ids) bytes += decode_one(id);
    return bytes;
  }
};

}  // namespace rookery
