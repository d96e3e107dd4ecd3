// For tests: small tokenizers, and damage to their files.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "tokenizers/gpt2_split.h"
#include "tokenizers/load.h"
#include "tokenizers/unicode.h"

namespace rookery {

inline std::filesystem::path world_file() {
  return shared_folder() / "data" / "tokenizers" / "rwkv_vocab_v20230424.txt";
}
inline std::filesystem::path neox_file() {
  return shared_folder() / "data" / "tokenizers" / "20B_tokenizer.json";
}

// The 256 bytes as ids 1 to 256, then one entry for each literal: its length and how it is written.
inline std::string small_world(const std::vector<std::pair<std::string, int>>& literals = {
                                   {R"('\n\n')", 2},
                                   {R"('the')", 3},
                                   {R"(' the')", 4},
                                   {R"('there')", 5},
                                   {R"("don't")", 5},
                                   {R"('\u00e9')", 2},
                                   {R"(b'\xe4\xbd')", 2},
                                   {R"('    ')", 4}}) {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) {
    text += fmt::format("{} {}'\\x{:02x}' 1\n", byte + 1, byte < 0x80 ? "" : "b", byte);
  }
  int id = 257;
  for (const auto& [literal, length] : literals) {
    text += fmt::format("{} {} {}\n", id++, literal, length);
  }
  return text;
}

// Bytes in the alphabet of tokenizer.json.
inline std::string in_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) append_utf8(byte_alphabet()[static_cast<uint8_t>(byte)], text);
  return text;
}

// Token 0 is <|endoftext|>, 1 to 256 the bytes, then what the merges make, then runs of two and
// four spaces that are cut out.
inline nlohmann::json small_bpe(const std::vector<std::pair<std::string, std::string>>& merges = {
                                    {"h", "e"},
                                    {"t", "he"},
                                    {" ", "the"},
                                    {"l", "l"},
                                    {"he", "ll"},
                                    {"a", "a"},
                                    {"aa", "a"},
                                    {"\xc3", "\xa9"},
                                    {"\n", "\n"}}) {
  using Json = nlohmann::json;
  Json vocabulary = {{"<|endoftext|>", 0}};
  int id = 1;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[in_alphabet(std::string(1, static_cast<char>(byte)))] = id++;
  }
  Json pairs = Json::array();
  for (const auto& [left, right] : merges) {
    vocabulary[in_alphabet(left + right)] = id++;
    pairs.push_back(in_alphabet(left) + " " + in_alphabet(right));
  }
  const auto added = [](int id, const char* content, bool special) {
    return Json{
        {"id", id},        {"content", content}, {"special", special},    {"single_word", false},
        {"lstrip", false}, {"rstrip", false},    {"normalized", !special}};
  };
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {added(0, "<|endoftext|>", true), added(id, "  ", false), added(id + 1, "    ", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", byte_level},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"vocab", vocabulary}, {"merges", pairs}}}};
}

// What parsing says about a text; empty if it is a tokenizer.
inline std::string tokenizer_error(std::string_view definition) {
  try {
    parse_tokenizer(definition, "the test's file");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::string random_bytes(std::mt19937& random, int64_t most) {
  std::string text(random() % (most + 1), '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

// Text of all kinds of characters, valid UTF-8.
inline std::string random_text(std::mt19937& random, int characters) {
  static constexpr uint32_t kSome[] = {
      ' ',    ' ',   '\n',   '\t',    '\'',   'a',    's',    't',     'r',     'e',
      'v',    'm',   'l',    'd',     'Z',    '0',    '9',    '.',     '-',     '<',
      0x85,   0xA0,  0xE9,   0x301,   0x323,  0x65,   0x3B1,  0x416,   0x5D0,   0x661,
      0x966,  0x93F, 0x1100, 0x1161,  0x11A8, 0xAC00, 0xAC01, 0x2003,  0x2028,  0x3000,
      0x4F60, 0xB2,  0x2167, 0x1D400, 0xFB01, 0x212B, 0x958,  0x1F600, 0x1F3FD, 0x200D};
  std::string text;
  for (int i = 0; i < characters; ++i) {
    uint32_t code = kSome[random() % std::size(kSome)];
    if (random() % 16 == 0) code = random() % 0x110000;
    if (code >= 0xD800 && code < 0xE000) code = 'x';
    append_utf8(code, text);
  }
  return text;
}

// Files that are `text` with one to four changed bytes give a tokenizer that encodes and decodes,
// or an Error.
inline void expect_tokenizer_mutations_are_survived(const std::string& text, int count,
                                                    uint32_t seed) {
  std::mt19937 random(seed);
  int read = 0;
  for (int i = 0; i < count; ++i) {
    std::string changed = text;
    for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      constexpr std::string_view kEdges = "\"\\{}[],: 0123456789'bxu\n\r\xff";
      const bool edge = random() % 2 == 0;
      const uint32_t value = random();
      char& byte = changed[random() % changed.size()];
      byte = edge ? kEdges[value % kEdges.size()] : static_cast<char>(value);
    }
    SCOPED_TRACE(i);
    std::unique_ptr<Tokenizer> tokenizer;
    try {
      tokenizer = parse_tokenizer(changed, "changed");
    } catch (const Error& error) {
      EXPECT_STRNE(error.what(), "");
      continue;
    }
    ++read;
    const std::string plain = "hello the  there\n\n aaaaa \xc3\xa9";
    EXPECT_EQ(tokenizer->bytes_of(0), "");
    tokenizer->decode(tokenizer->encode(plain));
  }
  // Both outcomes must occur, or the test tests nothing.
  EXPECT_GT(read, 0);
  EXPECT_LT(read, count);
}

}  // namespace rookery
