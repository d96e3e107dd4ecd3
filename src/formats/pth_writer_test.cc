#include "formats/pth_writer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/files_for_tests.h"

namespace rookery {
namespace {

struct Tensors {
  std::vector<float> floats = {1, -2, 0.1f, 4, 5, 6, 1e30f, -0.0f};
  std::vector<uint16_t> halves = {0x3c00, 0x7e01, 0xfc00, 0x0001, 0x8000, 0x1234};
  std::vector<StoredTensor> list = {
      {"blocks.0.att.time_mix_k", DType::kBF16, {1, 1, 6}, halves.data()},
      {"emb.weight", DType::kF32, {2, 4}, floats.data()},
      {"half", DType::kF16, {3, 2}, halves.data()},
      {"three", DType::kF32, {2, 2, 2}, floats.data()},
      {"scalar", DType::kF32, {}, floats.data()},
      {"empty", DType::kBF16, {0, 4}, halves.data()},
      {"made",
       DType::kF32,
       {3},
       nullptr,
       [](void* to) {
         for (int i = 0; i < 3; ++i) static_cast<float*>(to)[i] = static_cast<float>(i);
       }},
  };
};

void expect_same(const TensorSource& source, const std::vector<StoredTensor>& wanted) {
  ASSERT_EQ(source.tensors.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const StoredTensor& got = source.tensors[i];
    EXPECT_EQ(got.name, wanted[i].name);
    EXPECT_EQ(got.dtype, wanted[i].dtype) << got.name;
    EXPECT_EQ(got.shape, wanted[i].shape) << got.name;
    EXPECT_TRUE(contents_of(got) == contents_of(wanted[i])) << got.name;
    ASSERT_NE(got.data, nullptr) << got.name;
    EXPECT_EQ((static_cast<const std::byte*>(got.data) - source.file().bytes().data()) % 64, 0);
  }
}

TEST(PthWriter, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const Tensors tensors;
  const auto path = folder.path() / "model.pth";
  int64_t told = 0;
  write_pth(path, tensors.list, [&](int64_t bytes) { told += bytes; });
  EXPECT_EQ(told, bytes_of(tensors.list));
  const TensorSource source = open_checkpoint(path);
  EXPECT_EQ(source.format, "pth");
  EXPECT_TRUE(source.metadata.empty());
  expect_same(source, tensors.list);

  write_pth(folder.path() / "again.pth", source.tensors);
  EXPECT_TRUE(read_text_file(path) == read_text_file(folder.path() / "again.pth"));
}

// Each kind of number in its 64-bit field: all; offsets only, from the middle of the file on.
TEST(PthWriter, ReadsWhatIsWrittenInZip64) {
  const TemporaryFolder folder;
  const Tensors tensors;
  const auto path = folder.path() / "model.pth";
  for (const ZipLimits limits : {ZipLimits{0, 0}, ZipLimits{900, 0xffff}, ZipLimits{16, 1},
                                 ZipLimits{0xffffffff, 3}, ZipLimits{1, 0xffff}}) {
    SCOPED_TRACE(limits.bytes);
    write_pth(path, tensors.list, {}, limits);
    expect_same(open_checkpoint(path), tensors.list);
  }
}

TEST(PthWriter, MoreMembersThanSixteenBitsCount) {
  const TemporaryFolder folder;
  const float number = 3;
  std::vector<StoredTensor> many;
  for (int i = 0; i < 66'000; ++i)
    many.push_back({fmt::format("t{}", i), DType::kF32, {}, &number});
  const auto path = folder.path() / "model.pth";
  write_pth(path, many);
  const TensorSource source = open_checkpoint(path);
  ASSERT_EQ(source.tensors.size(), many.size());
  EXPECT_EQ(numbers_of<float>(source.tensors.back()), std::vector<float>{3});
}

TEST(PthWriter, RefusesBadNamesAndTypesAndLeavesNothing) {
  const TemporaryFolder folder;
  const double wide[] = {1, 2};
  const auto path = folder.path() / "model.pth";
  const auto refuses = [&](const std::vector<StoredTensor>& tensors, const char* why) {
    try {
      write_pth(path, tensors);
      ADD_FAILURE() << why;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  };
  refuses({{"", DType::kF32, {1}, wide}}, "is empty");
  refuses({{"a b", DType::kF32, {1}, wide}}, "not printable");
  refuses({{"a", DType::kF32, {1}, wide}, {"a", DType::kF16, {1}, wide}}, "occurs twice");
  refuses({{"a", DType::kF64, {1}, wide}}, "only f32, f16 and bf16");
  refuses({{"a", DType::kF32, {1}, nullptr, [](void*) { fail("cannot be made"); }}},
          "cannot be made");
  EXPECT_THROW(write_pth(path, Tensors().list, [](int64_t) { fail("stopped"); }), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TensorReader, MakesOneTensorAtATime) {
  const Tensors tensors;
  TensorReader reader;
  EXPECT_EQ(reader.read(tensors.list[1]), tensors.floats.data());
  const StoredTensor& made = tensors.list.back();
  const void* first = reader.read(made);
  EXPECT_EQ(static_cast<const float*>(first)[2], 2);
  StoredTensor smaller = made;
  smaller.shape = {0};
  smaller.make = [](void*) {};
  EXPECT_EQ(reader.read(smaller), first);
}

TEST(TensorInType, RoundsAndRefusesWhatBecomesInfinite) {
  const float numbers[] = {1, 1 / 3.0f, -65504, INFINITY, NAN};
  const StoredTensor tensor{"w", DType::kF32, {5}, numbers};
  EXPECT_EQ(in_type(tensor, DType::kF32).data, numbers);
  const StoredTensor half = in_type(tensor, DType::kF16), low = in_type(tensor, DType::kBF16);
  EXPECT_EQ(half.bytes(), 10);
  const auto halves = numbers_of<Float16>(half);
  const auto lows = numbers_of<BFloat16>(low);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(halves[i].bits, to_float16(numbers[i]).bits);
    EXPECT_EQ(lows[i].bits, to_bfloat16(numbers[i]).bits);
  }
  // Wider is exact.
  const StoredTensor wide = in_type(half, DType::kF32);
  EXPECT_EQ(numbers_of<float>(wide)[1], to_float(halves[1]));

  const auto error_in = [](const StoredTensor& from, DType dtype) -> std::string {
    try {
      TensorReader().read(in_type(from, dtype));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const float large[] = {1, 65536}, largest[] = {3.4e38f};
  const StoredTensor f32{"blocks.0.x", DType::kF32, {2}, large};
  EXPECT_NE(error_in(f32, DType::kF16).find("blocks.0.x holds 65536"), std::string::npos);
  EXPECT_NE(error_in(f32, DType::kF16).find("--dtype bf16"), std::string::npos);
  EXPECT_EQ(error_in(f32, DType::kBF16), "");
  EXPECT_NE(error_in(in_type(f32, DType::kBF16), DType::kF16), "");
  EXPECT_NE(error_in({"x", DType::kF32, {1}, largest}, DType::kBF16), "");
}

}  // namespace
}  // namespace rookery
