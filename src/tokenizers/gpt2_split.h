// The splitting of text into words that GPT-2's tokenizer, and with it GPT-NeoX's, does before
// merging. The pieces are the matches of
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// one after the other; they cover the text. By hand, because it is five times as fast as a general
// engine; the test compares it with PCRE2.
#pragma once

#include <cstdint>
#include <array>
#include <string_view>

namespace rookery {

inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The end of the piece that begins at `at` in a text that ends at `end`: valid UTF-8, at < end.
const char* gpt2_piece_end(const char* at, const char* end);

// GPT-2's alphabet of bytes: the code point by which tokenizer.json writes each byte. Printable
// Latin-1 characters stand for themselves; the other 68 bytes, in order, are U+0100, U+0101, ...
const std::array<uint16_t, 256>& byte_alphabet();

}  // namespace rookery
