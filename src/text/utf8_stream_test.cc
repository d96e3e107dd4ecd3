// Cut anywhere, valid text passes unchanged and invalid text becomes the same U+FFFDs.
#include "text/utf8_stream.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"

namespace rookery {
namespace {

constexpr const char* kBad = "\xEF\xBF\xBD";  // U+FFFD

TEST(Utf8Stream, ValidTextPassesHoweverItIsCut) {
  // One to four bytes per character, and the borders of each length.
  const std::string text =
      "a\u00e9\u4e2d\U0001F426z\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff";
  EXPECT_EQ(printable(text), text);
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      Utf8Stream stream;
      std::string out;
      for (const auto& [from, to] : std::vector<std::pair<size_t, size_t>>{
               {0, first}, {first, second}, {second, text.size()}}) {
        const std::string part = stream.push(std::string_view(text).substr(from, to - from));
        EXPECT_EQ(printable(part), part) << "emitted an incomplete character";
        EXPECT_EQ(part.find(kBad), std::string::npos);
        out += part;
      }
      EXPECT_EQ(out + stream.finish(), text);
    }
  }
}

TEST(Utf8Stream, HoldsBackUntilComplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("x\xF0\x9F"), "x");
  EXPECT_EQ(stream.push("\x90"), "");
  EXPECT_EQ(stream.push("\xA6y"), "\U0001F426y");
  EXPECT_EQ(stream.push("\xE4\xB8"), "");
  EXPECT_EQ(stream.finish(), kBad);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xAD"), kBad) << "finish() forgets the beginning";
}

TEST(Utf8Stream, InvalidBytesBecomeReplacements) {
  const std::string bad = kBad;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\x80", bad},            // continuation alone
      {"\xC0\xAF", bad + bad},  // overlong /
      {"\xC1\x80", bad + bad},
      {"\xE0\x80\xAF", bad + bad + bad},  // overlong, three bytes
      {"\xF0\x80\x80\xAF", bad + bad + bad + bad},
      {"\xED\xA0\x80", bad + bad + bad},            // a surrogate
      {"\xF4\x90\x80\x80", bad + bad + bad + bad},  // beyond U+10FFFF
      {"\xF5\xFF", bad + bad},
      {"\xE4\xB8"
       "a",
       bad + "a"},  // one beginning, one replacement
      {"\xF0\x9F\x90"
       "a",
       bad + "a"},
      {"\xF0\x9F\xE4\xB8\xAD", bad + "\u4e2d"},  // broken off by a good character
      {"\xC3\xC3\xA9", bad + "\u00e9"},
      // The example of the Unicode standard, table 3-11.
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", bad + bad + bad + bad + "A"},
  };
  for (const auto& [bytes, expected] : cases) {
    EXPECT_EQ(printable(bytes), expected);
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      Utf8Stream stream;
      std::string out = stream.push(std::string_view(bytes).substr(0, cut));
      out += stream.push(std::string_view(bytes).substr(cut));
      EXPECT_EQ(out + stream.finish(), expected);
    }
  }
}

TEST(Utf8Stream, AnyBytesBecomeValidTextHoweverTheyAreCut) {
  Random random(1);
  for (int round = 0; round < 500; ++round) {
    std::string bytes;
    for (int i = 0; i < 60; ++i)
      bytes += static_cast<char>(random.below(3) ? 0x80 + random.below(128) : random.below(256));
    const std::string expected = printable(bytes);
    EXPECT_EQ(printable(expected), expected) << "the output is not valid";
    Utf8Stream stream;
    std::string out;
    for (const char byte : bytes) out += stream.push({&byte, 1});
    EXPECT_EQ(out + stream.finish(), expected);
  }
}

}  // namespace
}  // namespace rookery
