#include "formats/pth_writer.h"

#include <gtest/gtest.h>
#include <zlib.h>

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

// A member of a zip archive, found from the end of the file as any unpacking program finds it.
struct Member {
  std::string name, data;
  int64_t offset = 0;  // of the data
};

// Reads PKWARE's APPNOTE 6.3 and nothing of ours: the end record, the directory, each member's own
// header. Expects both headers to agree, and zlib's CRC-32 of the data.
std::vector<Member> unpack(const std::string& zip) {
  const auto number = [&](size_t at, int bytes) {
    uint64_t value = 0;
    EXPECT_LE(at + bytes, zip.size());
    if (at + bytes <= zip.size()) std::memcpy(&value, zip.data() + at, bytes);
    return value;
  };
  const size_t end = zip.size() - 22;  // there is no comment
  EXPECT_EQ(number(end, 4), 0x06054b50u);
  uint64_t count = number(end + 10, 2), bytes = number(end + 12, 4), at = number(end + 16, 4);
  EXPECT_EQ(number(end + 8, 2), count);
  EXPECT_EQ(number(end + 20, 2), 0u);
  size_t directory_end = end;
  if (count == 0xffff || bytes == 0xffffffff || at == 0xffffffff) {
    EXPECT_EQ(number(end - 20, 4), 0x07064b50u);  // the locator
    const size_t record = number(end - 12, 8);
    EXPECT_EQ(number(record, 4), 0x06064b50u);
    EXPECT_EQ(number(record + 4, 8), 44u);
    EXPECT_EQ(record + 12 + 44, end - 20);
    count = number(record + 32, 8), bytes = number(record + 40, 8), at = number(record + 48, 8);
    EXPECT_EQ(number(record + 24, 8), count);
    directory_end = record;
  }
  EXPECT_EQ(at + bytes, directory_end);
  std::vector<Member> members;
  size_t next = 0;  // where the next member's own header should begin
  for (uint64_t i = 0; i < count && at + 46 <= zip.size(); ++i) {
    EXPECT_EQ(number(at, 4), 0x02014b50u);
    Member& member = members.emplace_back();
    const uint64_t flags = number(at + 8, 2), crc = number(at + 16, 4);
    uint64_t packed = number(at + 20, 4), size = number(at + 24, 4), header = number(at + 42, 4);
    const size_t name_bytes = number(at + 28, 2), extra_bytes = number(at + 30, 2);
    EXPECT_EQ(number(at + 10, 2), 0u);  // stored
    EXPECT_EQ(number(at + 32, 2), 0u);  // no comment
    member.name = zip.substr(at + 46, name_bytes);
    // Field 1 holds in 64 bits, in this order, what does not stand above.
    size_t field = at + 46 + name_bytes, fields_end = field + extra_bytes;
    for (; field + 4 <= fields_end; field += 4 + number(field + 2, 2)) {
      if (number(field, 2) != 1) continue;
      size_t wide = field + 4;
      for (uint64_t* value : {&size, &packed, &header}) {
        if (*value == 0xffffffff) *value = number(wide, 8), wide += 8;
      }
      EXPECT_EQ(wide, field + 4 + number(field + 2, 2));
    }
    EXPECT_EQ(field, fields_end);
    at = fields_end;

    EXPECT_EQ(header, next);
    EXPECT_EQ(number(header, 4), 0x04034b50u);
    EXPECT_EQ(number(header + 6, 2), flags);
    EXPECT_EQ(number(header + 8, 2), 0u);
    EXPECT_EQ(number(header + 14, 4), crc);
    EXPECT_EQ(zip.substr(header + 30, number(header + 26, 2)), member.name);
    member.offset = static_cast<int64_t>(header + 30 + name_bytes + number(header + 28, 2));
    uint64_t own_size = number(header + 22, 4), own_packed = number(header + 18, 4);
    if (own_size == 0xffffffff) {
      EXPECT_EQ(number(header + 30 + name_bytes, 2), 1u);
      own_size = number(header + 30 + name_bytes + 4, 8);
      own_packed = number(header + 30 + name_bytes + 12, 8);
    }
    EXPECT_EQ(packed, size);
    EXPECT_EQ(own_size, size);
    EXPECT_EQ(own_packed, size);
    member.data = zip.substr(member.offset, size);
    EXPECT_EQ(::crc32(0, reinterpret_cast<const Bytef*>(member.data.data()),
                      static_cast<uInt>(member.data.size())),
              crc)
        << member.name;
    next = member.offset + size;
  }
  EXPECT_EQ(members.size(), count);
  return members;
}

TEST(PthWriter, AnyUnpackingProgramFindsEveryMember) {
  const TemporaryFolder folder;
  const Tensors tensors;
  const auto path = folder.path() / "model.pth";
  for (const ZipLimits limits : {ZipLimits{}, ZipLimits{0, 0}, ZipLimits{900, 0xffff},
                                 ZipLimits{16, 1}, ZipLimits{0xffffffff, 3}}) {
    SCOPED_TRACE(limits.bytes);
    write_pth(path, tensors.list, {}, limits);
    const std::vector<Member> members = unpack(read_text_file(path));
    ASSERT_EQ(members.size(), tensors.list.size() + 3);
    EXPECT_EQ(members[0].name, "archive/data.pkl");
    EXPECT_EQ(members[1].name, "archive/byteorder");
    EXPECT_EQ(members[1].data, "little");
    EXPECT_EQ(members.back().name, "archive/version");
    EXPECT_EQ(members.back().data, "3\n");
    for (size_t i = 0; i < tensors.list.size(); ++i) {
      const Member& member = members[i + 2];
      EXPECT_EQ(member.name, fmt::format("archive/data/{}", i));
      EXPECT_EQ(member.data, contents_of(tensors.list[i]));
      EXPECT_EQ(member.offset % 64, 0);
    }
  }
}

// The pickle, byte for byte. Python's own module reads it as
//   {'w': _rebuild_tensor_v2(persistent_load(('storage', HalfStorage, '0', 'cpu', 600)), 0,
//                            (2, 300), (300, 1), False, OrderedDict())}
TEST(PthWriter, ThePickleIsTheseBytes) {
  const TemporaryFolder folder;
  const std::vector<uint16_t> halves(600);
  write_pth(folder.path() / "m.pth",
            std::vector<StoredTensor>{{"w", DType::kF16, {2, 300}, halves.data()}});
  const auto text = [](const std::string& value) {
    return "X" + std::string(1, static_cast<char>(value.size())) + std::string(3, '\0') + value;
  };
  using namespace std::string_literals;
  EXPECT_EQ(unpack(read_text_file(folder.path() / "m.pth"))[0].data,
            "\x80\x02}("s + text("w") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
                "ctorch\nHalfStorage\n" + text("0") + text("cpu") +
                "J\x58\x02\0\0tQK\0(K\x02J\x2c\x01\0\0t"s + "(J\x2c\x01\0\0K\x01t\x89"s +
                "ccollections\nOrderedDict\n)RtRu.");
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
