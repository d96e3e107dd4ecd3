#include "tokenizers/gpt2_split.h"

#include "tokenizers/unicode.h"

namespace rookery {
namespace {

// Classes of ASCII; every other byte has class_of() asked.
constexpr uint8_t kNotAscii = 0xFF;
constexpr auto kAsciiClass = [] {
  std::array<uint8_t, 256> classes{};
  for (int byte = 0; byte < 256; ++byte) {
    const bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    const bool number = byte >= '0' && byte <= '9';
    const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
    const CharacterClass is = letter   ? CharacterClass::kLetter
                              : number ? CharacterClass::kNumber
                              : space  ? CharacterClass::kSpace
                                       : CharacterClass::kOther;
    classes[byte] = byte < 0x80 ? static_cast<uint8_t>(is) : kNotAscii;
  }
  return classes;
}();

uint8_t ascii_class(const char* at) { return kAsciiClass[static_cast<uint8_t>(*at)]; }

// The class of the character at `at`, which moves behind it.
CharacterClass take(const char*& at) {
  const uint8_t ascii = ascii_class(at);
  if (ascii == kNotAscii) return class_of(next_character(at));
  ++at;
  return static_cast<CharacterClass>(ascii);
}

// The end of the longest run of this class from `at` on.
const char* run_end(const char* at, const char* end, CharacterClass is) {
  while (true) {
    while (at != end && ascii_class(at) == static_cast<uint8_t>(is)) ++at;
    if (at == end || ascii_class(at) != kNotAscii) return at;
    const char* next = at;
    if (class_of(next_character(next)) != is) return at;
    at = next;
  }
}

// The length of 's, 't, 're, 've, 'm, 'll or 'd at `at`, which is an apostrophe; 0 if there is
// none.
int contraction(const char* at, const char* end) {
  if (end - at < 2) return 0;
  const char first = at[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (end - at < 3) return 0;
  const char second = at[2];
  const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                   (first == 'l' && second == 'l');
  return two ? 3 : 0;
}

}  // namespace

const char* gpt2_piece_end(const char* at, const char* end) {
  const char* next = at;
  if (*at == '\'') {
    if (const int length = contraction(at, end); length > 0) return at + length;
  }
  const CharacterClass first = take(next);
  if (first != CharacterClass::kSpace) return run_end(next, end, first);
  if (*at == ' ' && next != end) {
    const char* after = next;
    const CharacterClass second = take(after);
    if (second != CharacterClass::kSpace) return run_end(after, end, second);
  }
  // White space: all of it at the end of the text, else without its last character, which belongs
  // to the next piece; but at least one.
  const char* last = at;
  while (next != end) {
    const char* here = next;
    if (take(next) != CharacterClass::kSpace) return last == at ? here : last;
    last = here;
  }
  return end;
}

const std::array<uint16_t, 256>& byte_alphabet() {
  static constexpr auto kAlphabet = [] {
    std::array<uint16_t, 256> codes{};
    uint16_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                          (byte >= 0xAE && byte <= 0xFF);
      codes[byte] = itself ? static_cast<uint16_t>(byte) : next++;
    }
    return codes;
  }();
  return kAlphabet;
}

}  // namespace rookery
