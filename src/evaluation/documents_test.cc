#include "evaluation/documents.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"
#include "checking/files_for_tests.h"

namespace rookery {
namespace {

// The documents, put together from their pieces; the most bytes of a piece in `longest`.
std::vector<std::string> documents(const std::filesystem::path& path,
                                   int64_t piece_bytes = kLongestPiece, size_t* longest = nullptr) {
  DocumentReader reader(path, piece_bytes);
  DocumentPiece piece;
  std::vector<std::string> result;
  std::string text;
  while (reader.next(piece)) {
    text += piece.text;
    if (longest != nullptr) *longest = std::max(*longest, piece.text.size());
    if (!piece.ends) continue;
    result.push_back(text);
    text.clear();
  }
  EXPECT_EQ(text, "");
  EXPECT_EQ(reader.offset(), static_cast<int64_t>(std::filesystem::file_size(path)));
  return result;
}

using Texts = std::vector<std::string>;

TEST(Documents, MarksEndThem) {
  const TemporaryFolder folder;
  const struct {
    std::string text;
    Texts documents;
  } cases[] = {
      {"", {}},
      {"one", {"one"}},
      {"one\n<|endoftext|>\ntwo\n<|endoftext|>", {"one\n", "two\n"}},
      {"one\n<|endoftext|>\ntwo\n<|endoftext|>\n", {"one\n", "two\n"}},
      {"no <|endoftext|> here\n", {"no <|endoftext|> here\n"}},
      {"<|endoftext|>\nx <|endoftext|>\n<|endoftext|>\nz", {"x <|endoftext|>\n", "z"}},
      {"<|endoftext|>x\n<|endoftext|>", {"<|endoftext|>x\n"}},
      {"<|endoftext|>\n<|endoftext|>\n", {}},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(documents(save(folder, "a.txt", text)), expected) << text;
  }
}

TEST(Documents, PiecesOfAnySizePutTogetherAreTheText) {
  const TemporaryFolder folder;
  std::string text;
  Texts expected;
  for (int d = 0; d < 20; ++d) {
    std::string document;
    for (int i = 0; i < d * 7 % 11; ++i)
      document += "line " + std::to_string(i * d) + " \n  more\n";
    if (d % 5 == 0) document += std::string(300, 'x') + "\xc3\xa9\n\n\n\n";
    if (d % 7 == 0) document += "a <|endoftext|>\n<|endoftext|> b\n";
    if (document.empty()) document = "-\n";
    expected.push_back(document);
    text += document + "<|endoftext|>\n";
  }
  const auto path = save(folder, "a.txt", text);
  for (int64_t bytes = 27; bytes < 200; bytes += 3) {
    size_t longest = 0;
    EXPECT_EQ(documents(path, bytes, &longest), expected) << bytes;
    EXPECT_LE(static_cast<int64_t>(longest), 2 * bytes);
  }
}

TEST(Documents, JsonLines) {
  const TemporaryFolder folder;
  EXPECT_EQ(documents(save(folder, "a.jsonl",
                           "{\"text\": \"one\\n<|endoftext|>\\n\", \"n\": 1}\n\n{\"text\": \"\"}\n"
                           "{\"text\": \"two\"}")),
            (Texts{"one\n<|endoftext|>\n", "", "two"}));
  try {
    documents(save(folder, "b.jsonl", "{\"text\": \"one\"}\n{\"words\": \"two\"}\n"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("b.jsonl:2: there is no \"text\""), std::string::npos);
  }
  EXPECT_THROW(DocumentReader(folder.path() / "absent"), Error);
  EXPECT_THROW(DocumentReader(folder.path().string()), Error);
}

}  // namespace
}  // namespace rookery
