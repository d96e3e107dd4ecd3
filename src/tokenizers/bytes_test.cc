// Bytes to ids and back, and the one byte that has no id.
#include "tokenizers/bytes.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tokenizers/load.h"

namespace rookery {
namespace {

TEST(ByteTokenizer, RoundTrip) {
  const ByteTokenizer tokenizer;
  std::string text;
  for (int byte = 1; byte < 256; ++byte) text += static_cast<char>(byte);
  const std::vector<int32_t> ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), 255u);
  for (int64_t i = 0; i < 255; ++i) EXPECT_EQ(ids[i], i + 1);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.name(), "bytes");
  EXPECT_EQ(tokenizer.vocab_size(), 256);
}

TEST(ByteTokenizer, TheEndOfADocumentHasNoBytes) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.bytes_of(0), "");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{'a', 0, 'b'}), "ab");
}

TEST(ByteTokenizer, RefusesByteZeroAndForeignIds) {
  const ByteTokenizer tokenizer;
  try {
    tokenizer.encode(std::string_view("ab\0c", 4));
    FAIL() << "byte 0 was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("offset 2"), std::string::npos) << error.what();
  }
  EXPECT_THROW(tokenizer.bytes_of(256), Error);
  EXPECT_THROW(tokenizer.bytes_of(-1), Error);
}

// A model's vocabulary that is rounded up: the ids beyond the tokenizer's stand for nothing.
TEST(PaddingIds, HaveNoBytes) {
  const auto tokenizer = with_padding_ids(std::make_unique<ByteTokenizer>(), 260);
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->padding_begin(), 256);
  EXPECT_EQ(tokenizer->encode("ab"), (std::vector<int32_t>{'a', 'b'}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{'a', 256, 'b', 259}), "ab");
  EXPECT_THROW(tokenizer->bytes_of(260), Error);
  EXPECT_THROW(tokenizer->bytes_of(-1), Error);
  EXPECT_EQ(tokenizer->definition(), "bytes");
  const auto same = with_padding_ids(std::make_unique<ByteTokenizer>(), 256);
  EXPECT_EQ(same->vocab_size(), 256);
  EXPECT_EQ(same->padding_begin(), 256);
}

}  // namespace
}  // namespace rookery
