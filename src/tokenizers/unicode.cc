// Categories and normal forms are utf8proc's. Here are tables over them, made at the first use,
// because the library's own answer for each character of a long text would be the slowest part of a
// tokenizer.
#include "tokenizers/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"

namespace rookery {
namespace {

constexpr uint32_t kCodes = 0x110000;
constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

std::vector<CharacterClass> make_classes() {
  std::vector<CharacterClass> classes(kCodes);
  for (uint32_t code = 0; code < kCodes; ++code) {
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
      case UTF8PROC_CATEGORY_LU:
      case UTF8PROC_CATEGORY_LL:
      case UTF8PROC_CATEGORY_LT:
      case UTF8PROC_CATEGORY_LM:
      case UTF8PROC_CATEGORY_LO:
        classes[code] = CharacterClass::kLetter;
        break;
      case UTF8PROC_CATEGORY_ND:
      case UTF8PROC_CATEGORY_NL:
      case UTF8PROC_CATEGORY_NO:
        classes[code] = CharacterClass::kNumber;
        break;
      case UTF8PROC_CATEGORY_ZS:
      case UTF8PROC_CATEGORY_ZL:
      case UTF8PROC_CATEGORY_ZP:
        classes[code] = CharacterClass::kSpace;
        break;
      default:
        break;
    }
  }
  // White_Space outside of the categories Z: tab to carriage return, and next line.
  for (const uint32_t code : {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}) {
    classes[code] = CharacterClass::kSpace;
  }
  return classes;
}

// A character is inert if normal form C neither changes it nor joins it to what stands before it.
// Text of inert characters is in normal form C, and any text may be cut before one.
class Inert {
 public:
  Inert() {
    std::vector<bool> joins(kCodes);  // second in a composition
    for (uint32_t code = 0; code < kCodes; ++code) {
      const utf8proc_property_t* property =
          utf8proc_get_property(static_cast<utf8proc_int32_t>(code));
      bool inert = property->combining_class == 0;
      // Code points without a decomposition, nearly all, are done with here. Hangul syllables
      // decompose by rule and compose again.
      if (property->decomp_seqindex != UINT16_MAX && property->decomp_type == 0) {
        std::array<utf8proc_int32_t, 32> parts{};
        const utf8proc_ssize_t count = utf8proc_decompose_char(
            static_cast<utf8proc_int32_t>(code), parts.data(), parts.size(), kDecompose, nullptr);
        const bool several = count > 1 && count <= static_cast<utf8proc_ssize_t>(parts.size());
        const utf8proc_int32_t last = several ? parts[count - 1] : 0;
        const bool composes = several &&
                              utf8proc_normalize_utf32(parts.data(), count, kCompose) == 1 &&
                              parts[0] == static_cast<utf8proc_int32_t>(code);
        if (composes) joins[last] = true;
        inert = inert && composes;
      }
      inert_[code] = inert;
    }
    for (uint32_t code = 0; code < kCodes; ++code) {
      if (joins[code]) inert_[code] = false;
    }
    // Jamo, vowels and final consonants, join the Hangul before them.
    for (uint32_t code = 0x1161; code <= 0x1175; ++code) inert_[code] = false;
    for (uint32_t code = 0x11A8; code <= 0x11C2; ++code) inert_[code] = false;
  }
  bool operator[](uint32_t code) const { return inert_[code]; }

 private:
  std::bitset<kCodes> inert_;
};

const Inert& inert() {
  static const auto table = std::make_unique<const Inert>();
  return *table;
}

// The first byte of eight that is not ASCII ends the run.
const char* skip_ascii(const char* at, const char* end) {
  while (end - at >= 8) {
    uint64_t eight;
    std::memcpy(&eight, at, 8);
    if ((eight & 0x8080808080808080ull) != 0) break;
    at += 8;
  }
  while (at != end && static_cast<uint8_t>(*at) < 0x80) ++at;
  return at;
}

// Decomposes, sorts the marks after each base, composes. Not utf8proc_map, whose sorting takes
// quadratic time for a long row of marks.
void append_composed(std::string_view part, std::string& text) {
  std::vector<utf8proc_int32_t> codes;
  for (const char *at = part.data(), *end = at + part.size(); at != end;) {
    const auto code = static_cast<utf8proc_int32_t>(next_character(at));
    std::array<utf8proc_int32_t, 32> parts{};
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code, parts.data(), parts.size(), kDecompose, nullptr);
    check(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size())) ||
        fail("cannot bring U+{:04X} to normal form C", code);
    codes.insert(codes.end(), parts.begin(), parts.begin() + count);
  }
  const auto combining = [](utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
  };
  for (auto begin = codes.begin(); begin != codes.end();) {
    if (combining(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, codes.end(),
                                  [&](utf8proc_int32_t code) { return combining(code) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining(a) < combining(b);
    });
    begin = end;
  }
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), kCompose);
  check(length >= 0) || fail("cannot bring {} bytes of text to normal form C: {}", part.size(),
                             utf8proc_errmsg(length));
  for (utf8proc_ssize_t i = 0; i < length; ++i) append_utf8(static_cast<uint32_t>(codes[i]), text);
}

}  // namespace

int64_t valid_utf8_prefix(std::string_view text) {
  const char *at = text.data(), *end = at + text.size();
  while ((at = skip_ascii(at, end)) != end) {
    const auto byte = [&](int i) { return static_cast<uint8_t>(at[i]); };
    const uint8_t first = byte(0);
    if (first < 0xC2 || first > 0xF4) break;
    const int length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (end - at < length) break;
    // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
    const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(1) < low || byte(1) > high) break;
    if (length > 2 && (byte(2) & 0xC0) != 0x80) break;
    if (length > 3 && (byte(3) & 0xC0) != 0x80) break;
    at += length;
  }
  return at - text.data();
}

void append_utf8(uint32_t code, std::string& text) {
  const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

CharacterClass class_of(uint32_t code) {
  static const std::vector<CharacterClass> classes = make_classes();
  return classes[code];
}

bool is_surely_nfc(std::string_view text) {
  const char *at = text.data(), *end = at + text.size();
  while ((at = skip_ascii(at, end)) != end) {
    if (!inert()[next_character(at)]) return false;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  const char *at = text.data(), *end = at + text.size();
  const char* copied = at;      // text before this is in `result`
  const char* last_inert = at;  // where a change may begin
  while (at != end) {
    const char* here = at;
    if (static_cast<uint8_t>(*at) < 0x80) {
      at = skip_ascii(at, end);
      last_inert = at - 1;
      continue;
    }
    if (inert()[next_character(at)]) {
      last_inert = here;
      continue;
    }
    // From the last inert character up to the next one: what is not inert reaches no further.
    while (at != end) {
      const char* next = at;
      if (inert()[next_character(next)]) break;
      at = next;
    }
    result.append(copied, last_inert);
    append_composed({last_inert, static_cast<size_t>(at - last_inert)}, result);
    copied = last_inert = at;
  }
  result.append(copied, end);
  return result;
}

}  // namespace rookery
