#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "formats/files_for_tests.h"

namespace rookery {
namespace {

// A file of this header and data.
std::string file_of(std::string header, const std::string& data) {
  std::string bytes;
  append<uint64_t>(bytes, header.size());
  return bytes + header + data;
}

std::string small_file() {
  return file_of(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("y":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},)"
      R"("z":{"dtype":"F16","shape":[0,7],"data_offsets":[26,26]}} )",
      std::string(26, '\x11'));
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const std::vector<float> weights = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> halves = {0x3c00, 0xbf80, 0x7fff};
  const StoredTensor tensors[] = {
      {"blocks.0.a", DType::kBF16, {3}, halves.data()},
      {"emb.weight", DType::kF32, {2, 3}, weights.data()},
      {"scalar", DType::kF16, {}, halves.data()},
      {"empty", DType::kF32, {0, 4}, weights.data()},
      {"four", DType::kF32, {1, 3, 1, 2}, weights.data()},
  };
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {"note", "caf\xc3\xa9 \"quoted\""}};
  const auto path = folder.path() / "model.safetensors";
  write_safetensors(path, tensors, metadata);

  TensorSource opened = open_checkpoint(path);
  const TensorSource source = std::move(opened);
  EXPECT_EQ(source.format, "safetensors");
  EXPECT_EQ(source.metadata, metadata);
  EXPECT_EQ(source.epsilons.group_norm, 64e-5f);
  ASSERT_EQ(source.tensors.size(), std::size(tensors));
  for (const StoredTensor& wanted : tensors) {
    const StoredTensor* got = source.find(wanted.name);
    ASSERT_NE(got, nullptr) << wanted.name;
    EXPECT_EQ(got->dtype, wanted.dtype);
    EXPECT_EQ(got->shape, wanted.shape) << got->shape.to_string();
    EXPECT_EQ(std::memcmp(got->data, wanted.data, static_cast<size_t>(wanted.bytes())), 0)
        << wanted.name;
    // Mapped, not copied.
    const auto* data = static_cast<const std::byte*>(got->data);
    EXPECT_GE(data, source.file().bytes().data());
    EXPECT_LE(data, source.file().bytes().data() + source.file().size());
  }
  EXPECT_EQ(source.find("none"), nullptr);
  const auto header = load_at<uint64_t>(source.file().bytes(), 0);
  EXPECT_EQ((header + 8) % 64, 0u);
}

// The file, read by the rules of the format's own library and by nothing of ours: the header is a
// JSON object, the data has no holes and ends with the file, offsets count from the data's start.
TEST(Safetensors, TheFileIsWhatTheFormatSays) {
  const TemporaryFolder folder;
  const std::vector<float> weights = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> halves = {0x3c00, 0xbf80, 0x7fff};
  std::vector<float> many(2 * 32, 0.5f);
  const StoredTensor matrix = {"q.weight", DType::kF32, {2, 32}, many.data()};
  const std::vector<StoredTensor> tensors = {
      *in_blocks(matrix),
      {"b", DType::kBF16, {3}, halves.data()},
      {"a", DType::kF32, {2, 1, 3}, weights.data()},
      {"none", DType::kF16, {0, 4}, halves.data()},
      {"h", DType::kF16, {}, halves.data()},
  };
  const auto path = folder.path() / "m.safetensors";
  write_safetensors(path, tensors, {{"note", "x \"y\""}});
  const std::string bytes = read_text_file(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  ASSERT_LT(8 + header_bytes, bytes.size());
  EXPECT_EQ(bytes[8], '{');
  EXPECT_EQ((8 + header_bytes) % 64, 0u);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  const nlohmann::json expected = {
      {"__metadata__",
       {{"note", "x \"y\""}, {"blocks", R"({"q.weight":{"type":"Q8_0","shape":[2,32]}})"}}},
      {"a", {{"dtype", "F32"}, {"shape", {2, 1, 3}}, {"data_offsets", {0, 24}}}},
      {"b", {{"dtype", "BF16"}, {"shape", {3}}, {"data_offsets", {24, 30}}}},
      {"none", {{"dtype", "F16"}, {"shape", {0, 4}}, {"data_offsets", {30, 30}}}},
      {"h", {{"dtype", "F16"}, {"shape", nlohmann::json::array()}, {"data_offsets", {30, 32}}}},
      {"q.weight", {{"dtype", "U8"}, {"shape", {2, 34}}, {"data_offsets", {32, 100}}}}};
  EXPECT_EQ(header, expected);
  const std::string data = bytes.substr(8 + header_bytes);
  ASSERT_EQ(data.size(), 100u);
  EXPECT_EQ(std::memcmp(data.data(), weights.data(), 24), 0);
  EXPECT_EQ(std::memcmp(data.data() + 24, halves.data(), 6), 0);
  EXPECT_EQ(std::memcmp(data.data() + 30, halves.data(), 2), 0);
  // 127 steps of 0.5 / 127, rounded to float16: 0x1c08.
  EXPECT_EQ(data.substr(32, 34), std::string("\x08\x1c") + std::string(32, '\x7f'));
  EXPECT_EQ(data.substr(66), data.substr(32, 34));
}

TEST(Safetensors, EpsilonsThatAreNotTheUsualOnesAreMetadata) {
  const TemporaryFolder folder;
  const float number = 1;
  const std::vector<StoredTensor> tensors = {{"a", DType::kF32, {1}, &number}};
  NormEpsilons epsilons;
  std::map<std::string, std::string> metadata = {{"layer_norm_epsilon", "0.5"}, {"note", "x"}};
  write_epsilons(epsilons, metadata);
  EXPECT_EQ(metadata, (std::map<std::string, std::string>{{"note", "x"}}));
  epsilons = {.layer_norm = 0.001f, .group_norm = 0.1f};
  write_epsilons(epsilons, metadata);
  EXPECT_EQ(metadata.at("layer_norm_epsilon"), "0.001");
  EXPECT_EQ(metadata.at("group_norm_epsilon"), "0.1");
  write_safetensors(folder.path() / "m", tensors, metadata);
  const TensorSource read = open_checkpoint(folder.path() / "m");
  EXPECT_EQ(read.epsilons.layer_norm, 0.001f);
  EXPECT_EQ(read.epsilons.group_norm, 0.1f);
  for (const char* wrong : {"0", "1", "-1", "x", "", "0.1 "}) {
    write_safetensors(folder.path() / "m", tensors, {{"layer_norm_epsilon", wrong}});
    EXPECT_NE(error_of(folder.path() / "m").find("between 0 and 1"), std::string::npos) << wrong;
  }
}

TEST(Safetensors, AFileWrittenTwiceIsTheSame) {
  const TemporaryFolder folder;
  const auto first = save(folder, "first", small_file());
  const TensorSource source = open_checkpoint(first);
  write_safetensors(folder.path() / "second", source.tensors, source.metadata);
  const TensorSource again = open_checkpoint(folder.path() / "second");
  write_safetensors(folder.path() / "third", again.tensors, again.metadata);
  EXPECT_EQ(read_text_file(folder.path() / "second"), read_text_file(folder.path() / "third"));
}

TEST(Safetensors, MisalignedAndDeepTensorsAreReadable) {
  const TemporaryFolder folder;
  std::string data = "?";
  append<float>(data, 2.5f);
  const auto path =
      save(folder, "odd",
           file_of(R"({"x":{"dtype":"F32","shape":[1,1,1,1,1,1],"data_offsets":[1,5]}})", data));
  const TensorSource source = open_checkpoint(path);
  ASSERT_EQ(source.tensors.size(), 1u);
  EXPECT_EQ(source.tensors[0].shape, (Shape{1, 1, 1, 1}));
  EXPECT_EQ(numbers_of<float>(source.tensors[0]), std::vector<float>{2.5f});
}

TEST(Safetensors, RefusesBadHeadersAndSaysWhy) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& header, const std::string& why) {
    const std::string error = error_of(save(folder, "bad", file_of(header, std::string(16, 'x'))));
    EXPECT_NE(error.find(why), std::string::npos) << header << "\n" << error;
  };
  const auto entry = [](const std::string& type, const std::string& shape,
                        const std::string& offsets) {
    return R"({"w":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  refuses("{}", "holds no tensors");
  refuses("{", "not valid JSON");
  refuses("{\"\xff\":1}", "not valid JSON");
  refuses(R"({"w":3})", "no JSON object");
  refuses(R"({"w":{}})", "no dtype");
  refuses(R"({"__metadata__":{"a":1}})", "is no text");
  refuses(entry("F64", "[2]", "[0,16]"), "type F64: expected F32, F16 or BF16");
  refuses(entry("I8", "[16]", "[0,16]"), "type I8");
  refuses(entry("F32", "[5]", "[0,20]"), "cut short");
  refuses(entry("F32", "[1]", "[8,4]"), "claims the data bytes [8,4]");
  refuses(entry("F32", "[1]", "[-4,0]"), "claims the data bytes");
  refuses(entry("F32", "[1]", "[0,4,8]"), "data_offsets of two numbers");
  refuses(entry("F32", "[1]", "[0,1e300]"), "claims the data bytes");
  refuses(entry("F32", "[1]", "[0,18446744073709551615]"), "claims the data bytes");
  refuses(entry("F32", "[3]", "[0,16]"), "do not agree");
  refuses(entry("F32", "[1.5]", "[0,4]"), "do not agree");
  refuses(entry("F32", "[-1]", "[0,4]"), "do not agree");
  refuses(entry("F32", "[4294967296,4294967296]", "[0,0]"), "do not agree");
  refuses(entry("BF16", "[2,2,2,1,1]", "[0,15]"), "do not agree");
  refuses(entry("BF16", "[0,2,2,2,2]", "[0,0]"), "at most 4 sizes");
  refuses(R"({"w":{"dtype":"F32","shape":[[[1]]],"data_offsets":[0,4]}})", "nested too deeply");
  refuses(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
          R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          "overlaps");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
          R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
          "two entries called a");
  refuses(R"({"a b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "not printable");

  std::string long_header = small_file();
  long_header[4] = 1;
  EXPECT_NE(error_of(save(folder, "long", long_header)).find("claims a header of"),
            std::string::npos);
}

TEST(Safetensors, RefusesToWriteWhatCannotBeRead) {
  const TemporaryFolder folder;
  const float number = 1;
  const double wide = 1;
  const auto path = folder.path() / "out";
  const StoredTensor same[] = {{"a", DType::kF32, {1}, &number}, {"a", DType::kF32, {1}, &number}};
  EXPECT_THROW(write_safetensors(path, same, {}), Error);
  const StoredTensor reserved[] = {{"__metadata__", DType::kF32, {1}, &number}};
  EXPECT_THROW(write_safetensors(path, reserved, {}), Error);
  const StoredTensor f64[] = {{"a", DType::kF64, {1}, &wide}};
  EXPECT_THROW(write_safetensors(path, f64, {}), Error);
  const StoredTensor bytes[] = {{"\xff", DType::kF32, {1}, &number}};
  EXPECT_THROW(write_safetensors(path, bytes, {}), Error);
  EXPECT_FALSE(std::filesystem::exists(path));
}

// -------------------------------------------------------------------------------------------------
// Blocks.

// Two rows of 32 numbers, each a scale of 1 and the numbers -16 to 15.
std::string two_blocks() {
  std::string row;
  append<uint16_t>(row, 0x3c00);
  for (int i = -16; i < 16; ++i) row += static_cast<char>(i);
  return row + row;
}

std::string header_of_blocks(const std::string& described, const std::string& shape = "[2,34]",
                             const std::string& type = "U8") {
  return R"({"__metadata__":{"a":"b","blocks":")" + described + R"("},"w":{"dtype":")" + type +
         R"(","shape":)" + shape + R"(,"data_offsets":[0,68]}})";
}

constexpr char kDescribed[] = R"({\"w\":{\"type\":\"Q8_0\",\"shape\":[2,32]}})";

TEST(SafetensorsBlocks, AreReadAsNumbers) {
  const TemporaryFolder folder;
  const TensorSource source =
      open_checkpoint(save(folder, "m", file_of(header_of_blocks(kDescribed), two_blocks())));
  ASSERT_EQ(source.tensors.size(), 1u);
  const StoredTensor& tensor = source.tensors[0];
  EXPECT_EQ(tensor.shape, (Shape{2, 32}));
  EXPECT_EQ(tensor.dtype, DType::kF32);
  EXPECT_EQ(tensor.stored_type(), "q8_0");
  EXPECT_EQ(tensor.stored_bytes(), 68);
  EXPECT_EQ(tensor.data, nullptr);
  // What describes the blocks is no metadata of the model's.
  EXPECT_EQ(source.metadata, (std::map<std::string, std::string>{{"a", "b"}}));
  const std::vector<float> numbers = numbers_of<float>(tensor);
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(numbers[i], static_cast<float>(i % 32) - 16);
}

TEST(SafetensorsBlocks, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  std::vector<float> weights(3 * 64);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(static_cast<float>(i * i));
  const std::vector<uint16_t> halves = {0x3c00, 0xbf80, 0x7fff};
  const StoredTensor whole = {"w.weight", DType::kF32, {3, 64}, weights.data()};
  const std::vector<StoredTensor> tensors = {*in_blocks(whole),
                                             {"v", DType::kBF16, {1, 1, 3}, halves.data()}};
  const auto path = folder.path() / "m";
  write_safetensors(path, tensors, {{"note", "x"}, {"blocks", "an old description"}});
  const TensorSource source = open_checkpoint(path);
  EXPECT_EQ(source.metadata, (std::map<std::string, std::string>{{"note", "x"}}));
  const StoredTensor* read = source.find("w.weight");
  ASSERT_NE(read, nullptr);
  EXPECT_EQ(read->shape, (Shape{3, 64}));
  const std::vector<float> numbers = numbers_of<float>(*read);
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_NEAR(numbers[i], weights[i], 0.51 / 127) << i;  // half a step of blocks up to 1
  }
  EXPECT_EQ(contents_of(*source.find("v")), contents_of(tensors[1]));
  // Blocks go from file to file as they are, and numbers made of them are plain again.
  write_safetensors(folder.path() / "again", source.tensors, source.metadata);
  EXPECT_EQ(read_text_file(folder.path() / "again"), read_text_file(path));
  const std::vector<StoredTensor> plain = {in_type(*read, DType::kF32)};
  write_safetensors(folder.path() / "plain", plain, {{"blocks", "an old description"}});
  const TensorSource back = open_checkpoint(folder.path() / "plain");
  EXPECT_EQ(back.tensors[0].stored_type(), "f32");
  EXPECT_EQ(numbers_of<float>(back.tensors[0]), numbers);
}

TEST(SafetensorsBlocks, OnlyMatricesOfWeightsBecomeBlocks) {
  const std::vector<float> numbers(64 * 33);
  const auto becomes = [&](const char* name, const Shape& shape) {
    return in_blocks({name, DType::kF32, shape, numbers.data()}).has_value();
  };
  EXPECT_TRUE(becomes("emb.weight", {33, 64}));
  EXPECT_FALSE(becomes("emb.weight", {64, 33}));
  EXPECT_FALSE(becomes("blocks.0.ln1.weight", {64}));
  EXPECT_FALSE(becomes("blocks.0.ln1.weight", {1, 64}));
  EXPECT_FALSE(becomes("blocks.0.ln1.weight", {1, 1, 64}));
  EXPECT_FALSE(becomes("blocks.0.att.time_decay", {2, 64}));
}

TEST(SafetensorsBlocks, RefusesToWriteWhatIsNotFinite) {
  const TemporaryFolder folder;
  std::vector<float> numbers(2 * 32, 1.0f);
  numbers[40] = NAN;
  const StoredTensor whole = {"w.weight", DType::kF32, {2, 32}, numbers.data()};
  const std::vector<StoredTensor> tensors = {*in_blocks(whole)};
  try {
    write_safetensors(folder.path() / "m", tensors, {});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("tensor w.weight cannot be stored as q8_0: it holds nan"),
        std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "m"));
}

TEST(SafetensorsBlocks, RefusesLiesAndSaysWhy) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& header, const std::string& why) {
    const std::string error = error_of(save(folder, "bad", file_of(header, two_blocks())));
    EXPECT_NE(error.find(why), std::string::npos) << header << "\n" << error;
  };
  const auto described = [](const std::string& type, const std::string& shape,
                            const std::string& name = "w") {
    return R"({\")" + name + R"(\":{\"type\":)" + type + R"(,\"shape\":)" + shape + "}}";
  };
  const std::string q8 = R"(\"Q8_0\")";
  refuses(header_of_blocks("x"), "not valid JSON");
  refuses(header_of_blocks("3"), "no JSON object");
  refuses(header_of_blocks(R"({\"w\":3})"), "no type or no list");
  refuses(header_of_blocks(R"({\"w\":{\"type\":\"Q8_0\"}})"), "no type or no list");
  refuses(header_of_blocks(described("8", "[2,32]")), "no type or no list");
  refuses(header_of_blocks(described(R"(\"Q4_0\")", "[2,32]")), "type Q4_0: expected Q8_0");
  refuses(header_of_blocks(described(q8, "64")), "no type or no list");
  refuses(header_of_blocks(described(q8, "[[64]]")), "nested too deeply");
  refuses(header_of_blocks(described(q8, "[]")), "the last a multiple of 32");
  refuses(header_of_blocks(described(q8, "[4,16]")), "the last a multiple of 32");
  refuses(header_of_blocks(described(q8, "[-2,32]")), "expected whole numbers");
  refuses(header_of_blocks(described(q8, "[4294967296,4294967296]")), "expected whole numbers");
  refuses(header_of_blocks(described(q8, "[1,32]")), "do not agree");
  refuses(header_of_blocks(described(q8, "[3,32]")), "do not agree");
  refuses(header_of_blocks(described(q8, "[0,32]")), "do not agree");
  refuses(header_of_blocks(described(q8, "[2,2,2,2,2,32]")), "do not agree");
  refuses(header_of_blocks(described(q8, "[2,32]", "other")), "type U8: expected F32, F16 or BF16");
  refuses(header_of_blocks(described(q8, "[2,32]"), "[2,33]"), "do not agree");
  refuses(header_of_blocks(described(q8, "[2,32]"), "[17]", "F32"), "has type F32: expected U8");
  refuses(R"({"__metadata__":{"blocks":"{\"x\":{\"type\":\"Q8_0\",\"shape\":[32]}}"},)"
          R"("w":{"dtype":"F32","shape":[17],"data_offsets":[0,68]}})",
          "names 1 tensors, of which the file has 0");
}

TEST(SafetensorsBlocks, EveryTruncationIsAnError) {
  expect_no_truncation_opens(file_of(header_of_blocks(kDescribed), two_blocks()));
}

TEST(SafetensorsBlocks, DamagedFilesAreSurvived) {
  expect_mutations_are_survived(file_of(header_of_blocks(kDescribed), two_blocks()), 4000, 2);
}

// -------------------------------------------------------------------------------------------------

TEST(Safetensors, EveryTruncationIsAnError) { expect_no_truncation_opens(small_file()); }

TEST(Safetensors, DamagedFilesAreSurvived) { expect_mutations_are_survived(small_file(), 4000, 1); }

TEST(OpenCheckpoint, RefusesOtherContentAndSaysWhatItIs) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& bytes, const std::string& why) {
    const std::string error = error_of(save(folder, "bad", bytes));
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  EXPECT_NE(error_of(folder.path()).find("is a folder"), std::string::npos);
  EXPECT_NE(error_of(folder.path() / "none").find("found nothing"), std::string::npos);
  refuses("", "is empty");
  refuses("x", "starts like no checkpoint");
  refuses(std::string(100, '\0'), "starts like no checkpoint");
  refuses("GGUF\3\0\0\0", "is a GGUF file");
  refuses("version https://git-lfs.github.com/spec/v1\n", "Git LFS");
  refuses("<!DOCTYPE html>", "web page");
  refuses("\x80\2\x8a\nl\xfc\x9c", "before version 1.6");
}

}  // namespace
}  // namespace rookery
