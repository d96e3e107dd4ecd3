// The tokenizer of the RWKV World models: greedy longest match on bytes. No splitting, no merges,
// no normal forms, no special strings.
//
// The vocabulary file has a line for each token, ID LITERAL LENGTH, where LITERAL is a string or
// bytes as Python writes them and LENGTH its bytes: 258 '\t\n' 2. A JSON twin, {"258": "\t\n",
// "129": [128], ...}, is read, too.
#pragma once

#include <cstdint>

#include "tokenizers/byte_trie.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// rwkv_vocab_v20230424.txt: 65,529 entries, ids 1 to 65529, longest 128 bytes; other sizes in the
// same form serve as well. Id 0 is the end of a document: it is not in the file, or it is a name
// that no text encodes to.
class WorldTokenizer final : public Tokenizer {
 public:
  static constexpr std::string_view kName = "world";

  // Reads either form. `source` names the file in messages. Throws Error, with the line, for what
  // is no such vocabulary: a literal that cannot be read or has another length, an id or a string
  // that occurs twice, ids far larger than the number of entries, or when one of the 256 single
  // bytes is missing (then some text could not be encoded).
  WorldTokenizer(std::string definition, std::string_view source);

  std::string_view name() const override { return kName; }
  // The largest id + 1: 65530 for the file above, whose models have 65536 rows.
  int64_t vocab_size() const override { return static_cast<int64_t>(offsets_.size()) - 1; }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override;
  // Ids that the file leaves out stand for no bytes, as id 0 does.
  std::string_view bytes_of(int32_t id) const override;
  std::string definition() const override { return definition_; }

 private:
  std::string definition_;
  std::string bytes_;             // of all tokens, by id
  std::vector<int64_t> offsets_;  // [vocab_size + 1]: where each begins in bytes_
  ByteTrie trie_;
};

}  // namespace rookery
