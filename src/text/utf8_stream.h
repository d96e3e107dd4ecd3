// Turns bytes that arrive in any pieces into complete UTF-8. A token may end in the middle of a
// character, and a model may produce bytes that are no character at all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery {

// What it returns, put together, is valid UTF-8 and does not depend on how the input was cut. Bytes
// that begin a character are held back until it is complete. Each invalid byte, and each longest
// beginning of a character that breaks off, becomes one U+FFFD (Unicode 15, section 3.9:
// "substitution of maximal subparts").
class Utf8Stream {
 public:
  // Takes more bytes; returns the characters that are complete now.
  std::string push(std::string_view bytes);

  // The input has ended: U+FFFD if it broke off inside a character, else nothing. The stream starts
  // anew.
  std::string finish();

 private:
  std::string held_;    // the bytes of an incomplete character
  int missing_ = 0;     // how many more it needs
  uint8_t low_ = 0x80;  // the range of its next byte
  uint8_t high_ = 0xBF;
};

// Bytes as valid UTF-8, in one piece: for JSON, and for messages that quote what a file or a model
// says.
std::string printable(std::string_view bytes);

}  // namespace rookery
