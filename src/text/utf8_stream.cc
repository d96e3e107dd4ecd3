// The well-formed byte sequences of Unicode 15, table 3-7, read one byte at a time.
#include "text/utf8_stream.h"

namespace rookery {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  std::string out;
  out.reserve(held_.size() + bytes.size());
  for (const char character : bytes) {
    const uint8_t byte = static_cast<uint8_t>(character);
    if (missing_ > 0) {
      if (byte >= low_ && byte <= high_) {
        held_ += character;
        low_ = 0x80;
        high_ = 0xBF;
        if (--missing_ == 0) {
          out += held_;
          held_.clear();
        }
        continue;
      }
      out += finish();  // broken off; this byte begins something new
    }
    if (byte < 0x80) {
      out += character;
    } else if (byte < 0xC2 || byte > 0xF4) {
      out += kReplacement;
    } else {
      held_ = character;
      missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
      // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
      low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
      high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    }
  }
  return out;
}

std::string Utf8Stream::finish() {
  const bool broken = missing_ > 0;
  missing_ = 0;
  held_.clear();
  return std::string(broken ? kReplacement : std::string_view());
}

std::string printable(std::string_view bytes) {
  Utf8Stream stream;
  const std::string text = stream.push(bytes);
  return text + stream.finish();
}

}  // namespace rookery
