// UTF-8, normal form C and the splitting rules, beside PCRE2 and known cases.
#include "tokenizers/unicode.h"

#include <gtest/gtest.h>

#include "tokenizers/files_for_tests.h"
#include "tokenizers/gpt2_split.h"
#include "tokenizers/regex.h"

namespace rookery {
namespace {

TEST(Unicode, ValidPrefix) {
  EXPECT_EQ(valid_utf8_prefix(""), 0);
  EXPECT_EQ(valid_utf8_prefix("plain text of more than eight bytes"), 35);
  EXPECT_EQ(valid_utf8_prefix("\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80"), 9);
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x80\x80", "\xe0\x9f\xbf",
                          "\xed\xa0\x80", "\xe4\xbd", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xf0\x9f\x98", "\xff"}) {
    EXPECT_EQ(valid_utf8_prefix("ab" + std::string(bad)), 2) << bad;
    EXPECT_EQ(valid_utf8_prefix("ab" + std::string(bad) + "cdefghij"), 2) << bad;
  }
  for (uint32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 61) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(code, text);
    ASSERT_EQ(valid_utf8_prefix(text), static_cast<int64_t>(text.size())) << code;
    const char* at = text.data();
    ASSERT_EQ(next_character(at), code);
    ASSERT_EQ(at, text.data() + text.size());
  }
}

TEST(Unicode, NormalFormC) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"plain", "plain"},
      {"e\xcc\x81", "\xc3\xa9"},
      {"xe\xcc\x81y", "x\xc3\xa9y"},
      {"o\xcc\x82\xcc\xa3", "\xe1\xbb\x99"},  // marks out of order
      {"\xe1\xbb\x99", "\xe1\xbb\x99"},
      {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},  // Hangul
      {"\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81"},
      {"\xe2\x84\xab", "\xc3\x85"},                  // the Angstrom sign
      {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},  // excluded from composition
      {"\xef\xac\x81", "\xef\xac\x81"},              // compatibility only
      {"\xcc\x81", "\xcc\x81"},
      {"a\xcc\x96\xcc\x81", "\xc3\xa1\xcc\x96"},     // not blocked
      {"\xe0\xa7\x87\xe0\xa6\xbe", "\xe0\xa7\x8b"},  // a second that is no mark
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(to_nfc(text), expected) << text;
    EXPECT_EQ(to_nfc(expected), expected);
  }
  EXPECT_TRUE(is_surely_nfc("Caf\xc3\xa9 \xe4\xbd\xa0 \xea\xb0\x81 \xd0\x96"));
  EXPECT_FALSE(is_surely_nfc("Cafe\xcc\x81"));
  std::mt19937 random(8);
  for (int i = 0; i < 300; ++i) {
    const std::string text = random_text(random, 50), once = to_nfc(text);
    EXPECT_EQ(to_nfc(once), once);
    if (is_surely_nfc(text)) {
      EXPECT_EQ(once, text);
    }
  }
}

TEST(Unicode, ManyMarksTakeNoQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 50'000; ++i) text += "\xcc\x81\xcc\x96";
  const std::string composed = to_nfc(text);
  EXPECT_EQ(composed.size(), text.size() - 1);
  EXPECT_TRUE(composed.starts_with("\xc3\xa1\xcc\x96"));
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> result;
  for (const char *at = text.data(), *end = at + text.size(); at != end;) {
    const char* next = gpt2_piece_end(at, end);
    result.emplace_back(at, next);
    at = next;
  }
  return result;
}

TEST(Gpt2Split, KnownCases) {
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(pieces("Hello world"), (Pieces{"Hello", " world"}));
  EXPECT_EQ(pieces("it's we'll 'tis I'D"),
            (Pieces{"it", "'s", " we", "'ll", " '", "tis", " I", "'", "D"}));
  EXPECT_EQ(pieces("a  b \n\n c"), (Pieces{"a", " ", " b", " \n\n", " c"}));
  EXPECT_EQ(pieces("a\n\nb"), (Pieces{"a", "\n", "\n", "b"}));
  EXPECT_EQ(pieces("x 12.5%  "), (Pieces{"x", " 12", ".", "5", "%", "  "}));
  EXPECT_EQ(pieces("'"), (Pieces{"'"}));
  EXPECT_EQ(pieces(" "), (Pieces{" "}));
  EXPECT_EQ(pieces(" \xc3\xa9t\xc3\xa9\xe2\x80\x83z"),
            (Pieces{" \xc3\xa9t\xc3\xa9", "\xe2\x80\x83", "z"}));
}

TEST(Gpt2Split, IsTheExpression) {
  const Regex regex(kGpt2Pattern), newer(R"(\p{Cn}|\x{180E})");
  std::mt19937 random(9);
  for (int i = 0; i < 500; ++i) {
    // Without characters that PCRE2's Unicode does not have yet, and one that has been a space.
    std::string text;
    const std::string any = random_text(random, 60);
    Regex::Matches other(newer, any);
    int64_t done = 0;
    while (const auto match = other.next()) {
      text += any.substr(done, match->begin - done);
      done = match->end;
    }
    text += any.substr(done);
    Regex::Matches matches(regex, text);
    std::vector<std::string> expected;
    while (const auto match = matches.next()) {
      expected.push_back(text.substr(match->begin, match->end - match->begin));
    }
    EXPECT_EQ(pieces(text), expected) << text;
  }
}

TEST(Gpt2Split, Alphabet) {
  EXPECT_EQ(byte_alphabet()['a'], 'a');
  EXPECT_EQ(byte_alphabet()[' '], 0x120);
  EXPECT_EQ(byte_alphabet()['\n'], 0x10A);
  EXPECT_EQ(byte_alphabet()[0xAD], 0x143);
}

}  // namespace
}  // namespace rookery
