// What tokenizers need of Unicode: where text is valid UTF-8, its normal form C, and the classes of
// characters by which text is split into words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery {

// How many bytes at the beginning of `text` are valid UTF-8 (Unicode 15, table 3-7), in whole
// characters.
int64_t valid_utf8_prefix(std::string_view text);

// The character that begins at `at`, which is in valid UTF-8; `at` moves behind it.
inline uint32_t next_character(const char*& at) {
  const auto byte = [&](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(at[i])); };
  uint32_t code = byte(0);
  if (code < 0x80) {
    at += 1;
  } else if (code < 0xE0) {
    code = (code & 0x1F) << 6 | (byte(1) & 0x3F);
    at += 2;
  } else if (code < 0xF0) {
    code = (code & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    at += 3;
  } else {
    code = (code & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    at += 4;
  }
  return code;
}

// Appends a code point (not a surrogate, at most 0x10FFFF) as UTF-8.
void append_utf8(uint32_t code, std::string& text);

enum class CharacterClass : uint8_t { kOther, kLetter, kNumber, kSpace };

// Letter and number are the general categories L and N, space is the property White_Space.
CharacterClass class_of(uint32_t code);

// Whether valid UTF-8 is in normal form C for certain: false also for text that only may differ,
// such as any with combining marks.
bool is_surely_nfc(std::string_view text);

// Valid UTF-8 in normal form C. Only the surroundings of what may change are looked at closely.
std::string to_nfc(std::string_view text);

}  // namespace rookery
