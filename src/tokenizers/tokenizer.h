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

  // From this id on there are none but padding ids, which stand for no token and only fill a
  // model's vocabulary up to a round size (load.h).
  virtual int64_t padding_begin() const { return vocab_size(); }

  // Appends the ids of `text`, which is any bytes, to `ids`. Throws Error for bytes that the
  // vocabulary cannot express.
  virtual void encode_to(std::string_view text, std::vector<int32_t>& ids) const = 0;
  std::vector<int32_t> encode(std::string_view text) const {
    std::vector<int32_t> ids;
    encode_to(text, ids);
    return ids;
  }

  // The bytes of one id: not always whole characters, and none for id 0. They live as long as the
  // tokenizer. Throws Error for an id outside the vocabulary.
  virtual std::string_view bytes_of(int32_t id) const = 0;

  // The bytes of the ids, laid end to end. Errors as for bytes_of().
  std::string decode(std::span<const int32_t> ids) const {
    std::string bytes;
    for (const int32_t id : ids) bytes += bytes_of(id);
    return bytes;
  }

  // The text from which parse_tokenizer() makes this tokenizer again; what saved models carry.
  virtual std::string definition() const = 0;
};

}  // namespace rookery
