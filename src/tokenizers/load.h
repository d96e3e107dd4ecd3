// Tokenizers from files and from what a saved model carries.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "tokenizers/tokenizer.h"

namespace rookery {

// The tokenizer that `definition` describes: the word "bytes". `source` names it in messages.
// Throws Error for anything else.
std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view definition, std::string_view source);

// The same from a file.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace rookery
