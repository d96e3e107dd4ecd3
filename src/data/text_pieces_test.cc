// Files in blocks: the same documents and lines whatever the borders of blocks and pieces.
#include "data/text_pieces.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "data/tokenizer_for_tests.h"

namespace rookery {
namespace {

std::vector<std::string> documents_of(const std::filesystem::path& path, int64_t longest) {
  TextPieces pieces(path, longest);
  std::vector<std::string> documents;
  std::string piece, document;
  for (bool ends; pieces.next(piece, ends);) {
    EXPECT_LE(static_cast<int64_t>(piece.size()), longest);
    EXPECT_TRUE(ends || !piece.empty());
    document += piece;
    if (ends) {
      EXPECT_FALSE(document.empty());
      documents.push_back(std::move(document));
      document.clear();
    }
  }
  EXPECT_TRUE(document.empty());  // the end of the file ends it
  return documents;
}

// The same, line by line and without blocks.
std::vector<std::string> expected_documents(const std::string& text) {
  std::vector<std::string> documents;
  std::string document;
  const auto end = [&] {
    if (!document.empty()) documents.push_back(document);
    document.clear();
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t at = text.find('\n', begin);
    const size_t after = at == std::string::npos ? text.size() : at + 1;
    const std::string line = text.substr(begin, after - begin);
    if (line == kDocumentMark || line == std::string(kDocumentMark) + '\n') {
      end();
    } else {
      document += line;
    }
    begin = after;
  }
  end();
  return documents;
}

TEST(TextPieces, MarksEndDocuments) {
  const TemporaryFolder folder;
  using Documents = std::vector<std::string>;
  const auto read = [&](const std::string& text) {
    return documents_of(save(folder, "text", text), 1000);
  };
  EXPECT_EQ(read("one\n<|endoftext|>\ntwo\n<|endoftext|>"), (Documents{"one\n", "two\n"}));
  EXPECT_EQ(read("<|endoftext|>\n<|endoftext|>\nx <|endoftext|>\n"),
            (Documents{"x <|endoftext|>\n"}));
  EXPECT_EQ(read("<|endoftext|>x\n <|endoftext|>\n"),
            (Documents{"<|endoftext|>x\n <|endoftext|>\n"}));
  EXPECT_EQ(read("x\n<|endoftext|>\n"), (Documents{"x\n"}));
  EXPECT_EQ(read("<|endoftext|>"), Documents());
  EXPECT_EQ(read(""), Documents());
  EXPECT_EQ(read("x"), Documents{"x"});
}

TEST(TextPieces, BordersDoNotMatter) {
  const TemporaryFolder folder;
  std::mt19937 random(3);
  const char* const kParts[] = {"<|endoftext|>",
                                "<|endoftext|>\n",
                                "\n<|endoftext|>\n",
                                "\n",
                                "a",
                                " b",
                                "<|endof",
                                "text|>",
                                "\n\n",
                                "\xc3\xa9",
                                "\xe3\x80\x80",
                                "word "};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (uint32_t parts = random() % 40; parts > 0; --parts) {
      text += kParts[random() % std::size(kParts)];
    }
    // Blocks of a quarter MB end somewhere, too.
    if (round % 50 == 0) text = std::string((1 << 18) - random() % 20, 'x') + text;
    const auto path = save(folder, "text", text);
    const std::vector<std::string> expected = expected_documents(text);
    for (const int64_t longest : {int64_t{1}, int64_t{5}, int64_t{40}, kLongestPiece}) {
      if (longest < 40 && text.size() > 100000) continue;
      ASSERT_EQ(documents_of(path, longest), expected) << "longest " << longest << ": " << text;
    }
  }
}

TEST(TextPieces, CutsWhereNoTokenIs) {
  EXPECT_EQ(place_to_cut("ab cd ef", 7), 5);
  EXPECT_EQ(place_to_cut("ab cd ef", 5), 2);
  EXPECT_EQ(place_to_cut("ab cd  ef. gh 1 i", 16), 2);        // not beside anything but letters
  EXPECT_EQ(place_to_cut("ab\n c\nd. e", 8), 6);              // only line ends
  EXPECT_EQ(place_to_cut("\xe3\x81\x82\xe3\x81\x84", 4), 3);  // only characters
  EXPECT_EQ(place_to_cut("\x80\x80\x80\x80\x80\x80\x80", 5), 5);
  EXPECT_EQ(place_to_cut("ab", 1), 1);
  // Pieces that were cut there make the tokens of the whole.
  const SpaceTokenizer tokenizer;
  std::string text;
  for (int i = 0; i < 3000; ++i) text += i % 11 == 10 ? "end\nof" : " word";
  const std::vector<int32_t> whole = tokenizer.encode(text);
  std::vector<int32_t> parts;
  std::string_view rest = text;
  while (rest.size() > 100) {
    const auto cut = static_cast<size_t>(place_to_cut(rest, 100));
    tokenizer.encode_to(rest.substr(0, cut), parts);
    rest.remove_prefix(cut);
  }
  tokenizer.encode_to(rest, parts);
  EXPECT_EQ(parts, whole);
}

TEST(TextPieces, RefusesWhatIsNoText) {
  const TemporaryFolder folder;
  EXPECT_THROW(documents_of(save(folder, "zero", std::string("a\0b", 3)), 10), Error);
  EXPECT_THROW(documents_of(folder.path(), 10), Error);
  EXPECT_THROW(documents_of(folder.path() / "missing", 10), Error);
}

TEST(Lines, HaveNumbersAndABound) {
  const TemporaryFolder folder;
  Lines lines(save(folder, "lines", "a\n\nbcd\r\nlast"), 5);
  std::string line;
  std::vector<std::string> all;
  while (lines.next(line)) {
    all.push_back(line);
    EXPECT_EQ(lines.number(), static_cast<int64_t>(all.size()));
  }
  EXPECT_EQ(all, (std::vector<std::string>{"a", "", "bcd\r", "last"}));
  for (const char* end : {"", "\n", "67890\n"}) {
    Lines longer(save(folder, "long", std::string("12345\n123456") + end), 5);
    EXPECT_TRUE(longer.next(line));
    try {
      longer.next(line);
      ADD_FAILURE() << "a long line was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(":2: the line"), std::string::npos) << error.what();
    }
  }
  // Lines across the borders of blocks.
  std::string text;
  for (int i = 0; text.size() < 700000; ++i)
    text += std::to_string(i) + std::string(i % 97, '.') + '\n';
  Lines many(save(folder, "many", text));
  std::string joined;
  while (many.next(line)) joined += line + '\n';
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace rookery
