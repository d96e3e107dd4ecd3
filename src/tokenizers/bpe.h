// Byte-level BPE, as Hugging Face's tokenizer.json describes it: GPT-NeoX's 20B_tokenizer.json,
// with which RWKV-4 was trained on the Pile, and what bpe_training.h makes.
//
// Text becomes ids in this order: bytes that are no UTF-8 are set apart; added tokens that are not
// special are cut out; normal form C, if the file asks for it; added tokens again, those that are
// looked for in normal form; splitting into pieces, by GPT-2's rules or by the file's expressions;
// merging within each piece.
#pragma once

#include <cstdint>
#include <array>
#include <utility>

#include "tokenizers/bpe_merges.h"
#include "tokenizers/byte_trie.h"
#include "tokenizers/regex.h"
#include "tokenizers/tokenizer.h"
#include "tokenizers/tokenizer_json.h"

namespace rookery {

// Gives the ids that the library `tokenizers` gives, but for two things. The texts of special
// tokens, such as <|endoftext|>, are ordinary text: nobody can write the end of a document into a
// prompt. And each byte that is no UTF-8 becomes the token of that byte, or is an Error if it has
// none: the bytes C0, C1 and F5 to FF have none in GPT-NeoX's. So decoding an encoded text gives it
// back, if it is in normal form C and the file puts no space in front.
//
// The ids of recent pieces are remembered in memory of the thread, 1 MB for all tokenizers
// together.
class BpeTokenizer final : public Tokenizer {
 public:
  static constexpr std::string_view kName = "bpe";

  // Reads a tokenizer.json. Throws Error, naming what it is, for whatever has another meaning than
  // byte-level BPE or is not known here (tokenizer_json.h).
  BpeTokenizer(std::string definition, std::string_view source);

  std::string_view name() const override { return kName; }
  int64_t vocab_size() const override { return static_cast<int64_t>(offsets_.size()) - 1; }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override;
  // Special tokens and unused ids have no bytes.
  std::string_view bytes_of(int32_t id) const override;
  std::string definition() const override { return definition_; }

  int64_t merges() const { return merges_.count(); }
  // Ids and names of the tokens that no text encodes to.
  const std::vector<std::pair<int32_t, std::string>>& special_tokens() const { return special_; }

 private:
  struct Step {
    TokenizerJson::Step::Kind kind;
    Regex regex;  // of kIsolate and kKeep
  };

  void encode_valid(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_normalized(std::string_view text, std::vector<int32_t>& ids) const;
  void split(size_t step, std::string_view text, std::vector<int32_t>& ids) const;
  void split_by(const Step& step, size_t next, std::string_view text,
                std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, const char* readable_end,
                    std::vector<int32_t>& ids) const;
  void merge_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  std::string definition_;
  std::string bytes_;             // of all tokens, by id
  std::vector<int64_t> offsets_;  // [vocab_size + 1]: where each begins in bytes_
  std::array<int32_t, 256> byte_ids_;
  BpeMerges merges_;
  // Added tokens that are cut out, before and after normal form C, and by which bytes they begin.
  struct Added {
    ByteTrie trie;
    std::array<bool, 256> begins{};
    bool any = false;
  };
  Added added_, added_normalized_;
  bool nfc_ = false;
  std::vector<Step> steps_;
  std::vector<std::pair<int32_t, std::string>> special_;
  uint32_t serial_;  // whose pieces are remembered
};

}  // namespace rookery
