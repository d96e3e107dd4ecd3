// Reads a Hugging Face tokenizer.json as far as byte-level BPE goes, and refuses the rest by name:
// a part that was passed over would give other tokens than the model was trained with.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/bpe_merges.h"

namespace rookery {

// What the file says, checked: every id in range, every byte of UTF-8 has a token, merges name
// tokens, and no merge makes a special one.
struct TokenizerJson {
  // A string that is one token whatever stands around it. The special ones are not taken from text.
  struct Added {
    int32_t id;
    std::string content;
    bool special;
    bool normalized;  // looked for after normal form C, not before
  };
  // How a text is cut into the pieces that are merged; each step cuts what the one before left.
  struct Step {
    enum class Kind {
      kPrefixSpace,  // a space is put in front of what does not begin with one
      kGpt2,         // gpt2_split.h
      kIsolate,      // matches of `pattern`, and what lies between them
      kKeep,         // matches of `pattern`; what lies between them is lost
    };
    Kind kind;
    std::string pattern = {};
    bool literal = false;  // `pattern` is a text, no expression
  };

  std::vector<std::string> bytes;        // [vocabulary]: none for special tokens and unused ids
  std::array<int32_t, 256> byte_ids;     // -1: none; only for bytes that do not occur in UTF-8
  std::vector<BpeMerges::Merge> merges;  // by rank
  std::vector<Added> added;
  bool nfc = false;
  std::vector<Step> steps;
};

// Throws Error, with what was expected, for any other file. Token 0 must be special: it ends
// documents.
TokenizerJson read_tokenizer_json(std::string_view text, std::string_view source);

}  // namespace rookery
