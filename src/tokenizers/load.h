// Tokenizers from files and from what a saved model carries.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "tokenizers/tokenizer.h"

namespace rookery {

// The tokenizer that `definition` describes: the word "bytes", the text of an RWKV World vocabulary
// or its JSON twin, or a Hugging Face tokenizer.json with a byte-level BPE model. `source` names it
// in messages. Throws Error for anything else.
std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view definition, std::string_view source);

// The same from a file of at most 256 MB.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

// A tokenizer for a model with more rows than the tokenizer has ids, because sizes were rounded up:
// 65536 for the 65530 of World. Such an id stands for no bytes, and no text encodes to it, but a
// model that was hardly trained may well produce it. Returns `tokenizer` itself if there are none.
std::unique_ptr<Tokenizer> with_padding_ids(std::unique_ptr<Tokenizer> tokenizer,
                                            int64_t vocabulary);

}  // namespace rookery
