// Prepared data: what is written is read again, and damage is noticed.
#include "data/binidx.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "core/error.h"
#include "checking/files_for_tests.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

std::vector<int64_t> all(TokenSpan tokens) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < tokens.size(); ++i) ids.push_back(tokens[i]);
  return ids;
}

size_t files_in(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// An index by hand, of three sequences in two documents.
std::string index_of(uint8_t code, int64_t item) {
  std::string idx("MMIDIDX\0\0", 9);
  append(idx, uint64_t{1});
  append(idx, code);
  append(idx, uint64_t{3});
  append(idx, uint64_t{3});
  for (const int32_t size : {2, 0, 3}) append(idx, size);
  for (const int64_t start : {0, 2, 2}) append(idx, start * item);
  for (const int64_t border : {0, 1, 3}) append(idx, border);
  return idx;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(BinIdx, RoundTripOfBothTypes) {
  for (const int64_t vocabulary : {int64_t{65536}, int64_t{65537}}) {
    const TemporaryFolder folder;
    const fs::path name = folder.path() / "two.words";
    const auto last = static_cast<int32_t>(vocabulary - 1);
    BinIdxWriter writer(name, vocabulary, true);
    writer.append(std::vector<int32_t>{5, last}, true);
    EXPECT_EQ(prepared_name(name), std::nullopt);  // nothing is there before the end
    writer.end_document(true);
    writer.append(std::vector<int32_t>{7}, true);
    writer.append(std::vector<int32_t>{8, 9}, true);
    writer.end_document(true);
    writer.commit("{}");
    EXPECT_EQ(files_in(folder.path()), 3u);
    for (const char* suffix : {"", ".bin", ".idx"}) {
      EXPECT_EQ(prepared_name(name.string() + suffix), name) << suffix;
    }
    const BinIdx data(name);
    EXPECT_EQ(data.tokens().type(), vocabulary == 65536 ? TokenType::kU16 : TokenType::kI32);
    EXPECT_EQ(all(data.tokens()), (std::vector<int64_t>{5, last, 0, 7, 8, 9, 0}));
    EXPECT_EQ(data.sequences(), 2);
    EXPECT_EQ(data.documents(), 2);
    EXPECT_EQ(data.size_of_sequence(0), 3);
    EXPECT_EQ(data.size_of_sequence(1), 4);
    // The very bytes that other programs expect.
    const std::string idx = read_text_file(idx_of(name));
    EXPECT_EQ(idx.size(), 34u + 12 * 2 + 8 * 3);
    EXPECT_EQ(idx[17], vocabulary == 65536 ? 8 : 4);
    EXPECT_EQ(idx.substr(34 + 8, 16), std::string("\0\0\0\0\0\0\0\0", 8) +
                                          std::string(vocabulary == 65536 ? "\6" : "\14") +
                                          std::string(7, '\0'));
  }
}

// Every byte of the three files, by the format of Megatron's indexed datasets.
TEST(BinIdx, TheFilesAreTheseBytes) {
  const TemporaryFolder folder;
  const fs::path name = folder.path() / "data";
  BinIdxWriter writer(name, 300, true);
  writer.longest_sequence = 3;
  writer.append(std::vector<int32_t>{258, 2}, false);
  writer.end_document(true);
  writer.append(std::vector<int32_t>{1, 3, 4}, true);
  writer.end_document(false);
  writer.commit("{}");
  EXPECT_EQ(read_text_file(bin_of(name)), std::string("\2\1\2\0\0\0\1\0\3\0\4\0\0\0", 14));
  EXPECT_EQ(read_text_file(mask_of(name)), std::string("\0\0\1\1\1\1\0", 7));
  std::string idx("MMIDIDX\0\0", 9);
  append(idx, uint64_t{1});  // version
  append(idx, uint8_t{8});   // u16
  append(idx, uint64_t{3});  // sequences
  append(idx, uint64_t{3});  // borders of two documents
  for (const int32_t size : {3, 3, 1}) append(idx, size);
  for (const int64_t byte : {0, 6, 12}) append(idx, byte);
  for (const int64_t border : {0, 1, 3}) append(idx, border);
  EXPECT_EQ(read_text_file(idx_of(name)), idx);
}

TEST(BinIdx, TheMaskIsWrittenIfAnythingIsNotLearned) {
  const TemporaryFolder folder;
  const fs::path name = folder.path() / "data";
  for (const bool masked : {true, false}) {
    BinIdxWriter writer(name, 300, masked);
    writer.append(std::vector<int32_t>{1, 2, 3}, true);
    writer.end_document(true);
    writer.append(std::vector<int32_t>{4, 5}, false);
    writer.append(std::vector<int32_t>{6}, true);
    writer.end_document(false);
    EXPECT_EQ(writer.has_mask(), masked);
    EXPECT_EQ(writer.learned(), masked ? 5 : 8);
    writer.commit("about");
    EXPECT_EQ(read_text_file(about_of(name)), "about");
    // The second time there is none: the first one's is removed.
    ASSERT_EQ(fs::exists(mask_of(name)), masked);
    if (masked) {
      EXPECT_EQ(read_text_file(mask_of(name)), std::string("\1\1\1\1\0\0\1\0", 8));
    }
  }
}

TEST(BinIdx, ALongDocumentIsSeveralSequences) {
  const TemporaryFolder folder;
  const fs::path name = folder.path() / "data";
  BinIdxWriter writer(name, 300, true);
  writer.longest_sequence = 4;
  const std::vector<int32_t> ids{1, 2, 3, 4, 5, 6, 7, 8, 9};
  for (const size_t count : {9, 4, 2}) {
    writer.append(std::span(ids).first(count), true);
    writer.end_document(true);
  }
  EXPECT_EQ(writer.documents(), 3);
  writer.commit("");
  const BinIdx data(name);
  std::vector<int32_t> sizes;
  for (int64_t i = 0; i < data.sequences(); ++i) sizes.push_back(data.size_of_sequence(i));
  EXPECT_EQ(sizes, (std::vector<int32_t>{4, 4, 2, 4, 1, 3}));
  EXPECT_EQ(data.documents(), 3);
  const std::string idx = read_text_file(idx_of(name));
  std::string borders;
  for (const int64_t border : {0, 3, 5, 6}) append(borders, border);
  EXPECT_EQ(idx.substr(idx.size() - borders.size()), borders);
}

TEST(BinIdx, LeavesNothingBehindWithoutCommit) {
  const TemporaryFolder folder;
  {
    BinIdxWriter writer(folder.path() / "data", 300, true);
    writer.append(std::vector<int32_t>(3000000, 5), false);  // more than its buffers hold
    writer.end_document(true);
    EXPECT_EQ(files_in(folder.path()), 2u);
  }
  EXPECT_EQ(files_in(folder.path()), 0u);
  BinIdxWriter writer(folder.path() / "data", 300, true);
  EXPECT_NE(error_of([&] {
              writer.append(std::vector<int32_t>{1, 300}, true);
            }).find("gave token 300"),
            std::string::npos);
  BinIdxWriter empty(folder.path() / "empty", 300, true);
  EXPECT_NE(error_of([&] { empty.commit(""); }).find("every input is empty"), std::string::npos);
  EXPECT_THROW(BinIdxWriter(folder.path() / "missing" / "data", 300, true), Error);
}

TEST(BinIdx, ReadsTheTypesOfOtherPrograms) {
  const TemporaryFolder folder;
  std::string bin4, bin5;
  for (const int id : {3, -1, 5, 6, 0}) {
    append(bin4, int32_t{id});
    append(bin5, int64_t{id} << 33);
  }
  save(folder, "four.bin", bin4);
  save(folder, "four.idx", index_of(4, 4));
  save(folder, "five.bin", bin5);
  save(folder, "five.idx", index_of(5, 8));
  EXPECT_EQ(all(BinIdx(folder.path() / "four").tokens()), (std::vector<int64_t>{3, -1, 5, 6, 0}));
  const BinIdx five(folder.path() / "five");
  EXPECT_EQ(five.tokens()[1], -(int64_t{1} << 33));
  EXPECT_EQ(five.sequences(), 3);
  EXPECT_EQ(five.documents(), 2);
  EXPECT_EQ(five.size_of_sequence(1), 0);
  EXPECT_EQ(all(five.tokens().subspan(2, 2)),
            (std::vector<int64_t>{int64_t{5} << 33, int64_t{6} << 33}));
  for (const auto& [code, words] :
       {std::pair{uint8_t{1}, "(u8)"}, {uint8_t{6}, "float"}, {uint8_t{99}, "99 (unknown)"}}) {
    save(folder, "four.idx", index_of(code, 4));
    const std::string error = error_of([&] { BinIdx data(folder.path() / "four"); });
    EXPECT_NE(error.find(words), std::string::npos) << error;
  }
}

TEST(BinIdx, RefusesFilesThatDoNotFitEachOther) {
  const TemporaryFolder folder;
  const fs::path name = folder.path() / "data";
  const std::string bin(10, '\1'), idx = index_of(8, 2);
  const auto refusal = [&](const std::string& some_bin, const std::string& some_idx) {
    save(folder, "data.bin", some_bin);
    save(folder, "data.idx", some_idx);
    return error_of([&] { BinIdx data(name); });
  };
  ASSERT_EQ(refusal(bin, idx), "");
  EXPECT_NE(refusal(bin + "xx", idx).find("of one data set"), std::string::npos);
  EXPECT_NE(refusal(bin.substr(2), idx).find("of one data set"), std::string::npos);
  EXPECT_NE(refusal(bin + "x", idx).find("whole tokens"), std::string::npos);
  EXPECT_NE(refusal(bin, idx + "x").find("cut off or damaged"), std::string::npos);
  EXPECT_NE(refusal(bin, "nothing").find("MMIDIDX"), std::string::npos);
  for (size_t length = 0; length < idx.size(); ++length) {
    ASSERT_NE(refusal(bin, idx.substr(0, length)), "") << length;
  }
  const auto changed = [&](size_t at, const std::string& bytes) {
    std::string other = idx;
    return other.replace(at, bytes.size(), bytes);
  };
  EXPECT_NE(refusal(bin, changed(9, "\2")).find("version 2"), std::string::npos);
  EXPECT_NE(refusal(bin, changed(34, "\xff\xff\xff\xff")).find("begin at byte"), std::string::npos);
  EXPECT_NE(refusal(bin, changed(34 + 8, "\xff\xff\xff\x7f")).find("has only 10 bytes"),
            std::string::npos);
  EXPECT_NE(refusal(bin, changed(34 + 12 + 8, "\6")).find("begin at byte 4"), std::string::npos);
  EXPECT_NE(refusal(bin, changed(idx.size() - 8, "\2")).find("document 2"), std::string::npos);
  EXPECT_NE(refusal(bin, changed(idx.size() - 16, "\7")).find("document 1"), std::string::npos);
  EXPECT_NE(refusal(bin, changed(idx.size() - 24, "\1")).find("document 0"), std::string::npos);
  // 2^64 - 1 sequences, and as many as make 12 n wrap around to the right size.
  EXPECT_NE(refusal(bin, changed(18, std::string(8, '\xff'))), "");
  std::string wrapping;
  append(wrapping, (uint64_t{1} << 62) + 3);
  EXPECT_NE(refusal(bin, changed(18, wrapping)), "");
}

TEST(BinIdx, SurvivesMutations) {
  const TemporaryFolder folder;
  save(folder, "data.bin", std::string(10, '\1'));
  const std::string idx = index_of(8, 2);
  // Written over in place, for speed: nothing is mapped meanwhile.
  std::fstream file(save(folder, "data.idx", idx), std::ios::in | std::ios::out | std::ios::binary);
  std::mt19937 random(7);
  int opened = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string changed = idx;
    for (uint32_t changes = 1 + random() % 3; changes > 0; --changes) {
      constexpr unsigned char kEdges[] = {0x00, 0x01, 0x02, 0x7f, 0x80, 0xff};
      const uint32_t value = random();
      changed[random() % changed.size()] =
          static_cast<char>(random() % 2 == 0 ? kEdges[value % std::size(kEdges)] : value);
    }
    file.seekp(0).write(changed.data(), static_cast<std::streamsize>(changed.size())).flush();
    const std::string error = error_of([&] {
      const BinIdx data(folder.path() / "data");
      int64_t sum = 0, size = 0;
      for (const int64_t id : all(data.tokens())) sum += id;
      for (int64_t j = 0; j < data.sequences(); ++j) size += data.size_of_sequence(j);
      EXPECT_EQ(size, data.tokens().size());
      EXPECT_EQ(sum, 257 * 5);
    });
    opened += error.empty() ? 1 : 0;
  }
  EXPECT_GT(opened, 0);  // changes back to what was there
  EXPECT_LT(opened, 1000);
}

}  // namespace
}  // namespace rookery
