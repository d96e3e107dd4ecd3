#include "formats/safetensors.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(source.group_norm_epsilon, 64e-5f);
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
