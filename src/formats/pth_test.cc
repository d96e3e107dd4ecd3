#include "formats/pth.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "formats/files_for_tests.h"

namespace rookery {
namespace {

// -------------------------------------------------------------------------------------------------
// Archives and pickles as torch.save writes them, small enough to damage every byte.

struct Member {
  std::string name, data;
  bool in64 = false;  // sizes and offset in the ZIP64 extra field only
  uint16_t method = 0;
};

// Local headers without sizes, data at multiples of 64, ZIP64 records.
std::string archive_of(const std::vector<Member>& members, bool zip64 = true) {
  std::string file, directory;
  for (const Member& member : members) {
    const uint64_t header = file.size();
    const size_t unpadded = file.size() + 30 + member.name.size() + 4;
    const size_t padding = (64 - unpadded % 64) % 64;
    append<uint32_t>(file, 0x04034b50);
    for (const uint16_t field : {0, 0x808, int{member.method}, 0, 0}) append(file, field);
    for (int i = 0; i < 3; ++i) append<uint32_t>(file, 0);
    append<uint16_t>(file, static_cast<uint16_t>(member.name.size()));
    append<uint16_t>(file, static_cast<uint16_t>(4 + padding));
    file += member.name + "FB";
    append<uint16_t>(file, static_cast<uint16_t>(padding));
    file.append(padding, 'Z');
    file += member.data;

    const uint64_t size = member.data.size();
    append<uint32_t>(directory, 0x02014b50);
    for (const uint16_t field : {0, 0, 0x808, int{member.method}, 0, 0}) append(directory, field);
    append<uint32_t>(directory, 0);
    for (int i = 0; i < 2; ++i) {
      append(directory, member.in64 ? 0xffffffffu : static_cast<uint32_t>(size));
    }
    append<uint16_t>(directory, static_cast<uint16_t>(member.name.size()));
    append<uint16_t>(directory, member.in64 ? 4 + 24 + 6 : 0);
    for (int i = 0; i < 3; ++i) append<uint16_t>(directory, 0);
    append<uint32_t>(directory, 0);
    append(directory, member.in64 ? 0xffffffffu : static_cast<uint32_t>(header));
    directory += member.name;
    if (member.in64) {
      append<uint16_t>(directory, 0x7777);  // another extra field before it
      append<uint16_t>(directory, 2);
      append<uint16_t>(directory, 0);
      append<uint16_t>(directory, 1);
      append<uint16_t>(directory, 24);
      for (const uint64_t field : {size, size, header}) append(directory, field);
    }
  }
  const uint64_t offset = file.size(), count = members.size(), size = directory.size();
  file += directory;
  if (zip64) {
    const uint64_t record = file.size();
    append<uint32_t>(file, 0x06064b50);
    append<uint64_t>(file, 44);
    for (const uint16_t field : {0, 0}) append(file, field);
    for (const uint32_t field : {0u, 0u}) append(file, field);
    for (const uint64_t field : {count, count, size, offset}) append(file, field);
    append<uint32_t>(file, 0x07064b50);
    append<uint32_t>(file, 0);
    append(file, record);
    append<uint32_t>(file, 1);
  }
  append<uint32_t>(file, 0x06054b50);
  for (const uint64_t field : {uint64_t{0}, uint64_t{0}, count, count}) {
    append(file, static_cast<uint16_t>(field));
  }
  append(file, zip64 ? 0xffffffffu : static_cast<uint32_t>(size));
  append(file, zip64 ? 0xffffffffu : static_cast<uint32_t>(offset));
  append<uint16_t>(file, 0);
  return file;
}

// Opcodes one after another; the names are those of Python's pickletools.
class PickleWriter {
 public:
  PickleWriter& raw(const std::string& opcodes) {
    out_ += opcodes;
    return *this;
  }
  PickleWriter& text(const std::string& value) {
    out_ += 'X';
    append(out_, static_cast<uint32_t>(value.size()));
    return raw(value);
  }
  PickleWriter& number(int64_t value) {
    if (value == static_cast<int32_t>(value)) {
      out_ += 'J';
      append(out_, static_cast<int32_t>(value));
    } else {
      raw("\x8a\x08");
      append(out_, value);
    }
    return *this;
  }
  PickleWriter& numbers(const std::vector<int64_t>& values) {
    raw("(");
    for (const int64_t value : values) number(value);
    return raw("t");
  }
  PickleWriter& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  PickleWriter& tensor(const std::string& type, const std::string& key, int64_t count,
                       int64_t offset, const std::vector<int64_t>& sizes,
                       const std::vector<int64_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2")
        .raw("((")
        .text("storage")
        .global("torch", type)
        .text(key);
    text("cuda:0").number(count).raw("tQ").number(offset).numbers(sizes).numbers(strides).raw(
        "\x89");
    return global("collections", "OrderedDict").raw(")RtR");
  }
  std::string finish() const { return "\x80\x02" + out_ + "."; }

 private:
  std::string out_;
};

std::string floats(std::initializer_list<float> values) {
  std::string bytes;
  for (const float value : values) append(bytes, value);
  return bytes;
}

std::string checkpoint_of(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<Member> members = {{"any/data.pkl", pickle}};
  for (size_t i = 0; i < storages.size(); ++i) {
    members.push_back({"any/data/" + std::to_string(i), storages[i]});
  }
  members.push_back({"any/version", "3\n"});
  return archive_of(members);
}

// {"emb.weight": [2, 3] floats, "head.weight": the same storage transposed, "step": 7, ...}
std::string small_file() {
  PickleWriter pickle;
  pickle.raw("}q").raw(std::string(1, '\0')).raw("(");
  pickle.text("emb.weight")
      .tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1})
      .raw("r")
      .raw({7, 0, 0, 0});
  pickle.text("head.weight").tensor("FloatStorage", "0", 6, 0, {3, 1, 2}, {1, INT64_MAX, 3});
  pickle.text("module.blocks.0.a").global("torch._utils", "_rebuild_parameter").raw("(");
  pickle.tensor("BFloat16Storage", "1", 4, 1, {1, 3}, {17, 1}).raw("\x88}tR");
  pickle.text("tied").raw("j").raw({7, 0, 0, 0});
  pickle.text("step").number(int64_t{1} << 40);
  pickle.text("note")
      .text("hello")
      .text("rate")
      .raw("G")
      .raw({0x3f, '\xe0', 0, 0, 0, 0, 0, 0})
      .text("flag")
      .raw("\x88");
  pickle.text("list").raw("](").number(1).raw("Ne").text("ids").tensor("LongStorage", "9", 4, 0,
                                                                       {4}, {1});
  pickle.raw("u");
  return checkpoint_of(pickle.finish(), {floats({1, 2, 3, 4, 5, 6}),
                                         std::string("\x80\x3f\x00\x40\x40\x40\x80\x40", 8)});
}

// The error for the pickle with one storage of six floats.
std::string error_of_pickle(const std::string& pickle) {
  const TemporaryFolder folder;
  return error_of(save(folder, "file.pth", checkpoint_of(pickle, {floats({1, 2, 3, 4, 5, 6})})));
}

std::vector<float> floats_of(const StoredTensor& tensor) { return numbers_of<float>(tensor); }

// -------------------------------------------------------------------------------------------------

TEST(Pth, ReadsTensorsOfEveryKindOfLayout) {
  const TemporaryFolder folder;
  const TensorSource source = open_checkpoint(save(folder, "file.pth", small_file()));
  EXPECT_EQ(source.format, "pth");
  EXPECT_EQ(source.epsilons.group_norm, 64e-5f);
  ASSERT_EQ(source.tensors.size(), 4u);

  const StoredTensor& plain = *source.find("emb.weight");
  EXPECT_EQ(plain.dtype, DType::kF32);
  EXPECT_EQ(plain.shape, (Shape{2, 3}));
  EXPECT_EQ(floats_of(plain), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ((static_cast<const std::byte*>(plain.data) - source.file().bytes().data()) % 64, 0);
  const StoredTensor& transposed = *source.find("head.weight");
  EXPECT_EQ(transposed.shape, (Shape{3, 1, 2}));
  EXPECT_EQ(transposed.data, nullptr);  // nothing is made before it is asked for
  EXPECT_EQ(floats_of(transposed), (std::vector<float>{1, 4, 2, 5, 3, 6}));
  const StoredTensor& parameter = *source.find("blocks.0.a");
  EXPECT_EQ(parameter.dtype, DType::kBF16);
  EXPECT_EQ(parameter.shape, (Shape{1, 3}));
  const auto* values = static_cast<const BFloat16*>(parameter.data);
  EXPECT_EQ(to_float(values[0]), 2);
  EXPECT_EQ(to_float(values[2]), 4);
  EXPECT_EQ(source.find("tied")->data, plain.data);

  const std::map<std::string, std::string> metadata = {
      {"step", "1099511627776"}, {"note", "hello"}, {"rate", "0.5"}, {"flag", "true"}};
  EXPECT_EQ(source.metadata, metadata);
}

// Every form in which Python writes a number: bytes in two's complement, the lowest first.
TEST(Pth, ReadsNumbersOfEveryLength) {
  using namespace std::string_literals;
  PickleWriter pickle;
  pickle.raw("}(");
  pickle.text("byte")
      .raw("K\xff")
      .text("two")
      .raw("M\xff\xfe")
      .text("four")
      .raw("J\xfe\xff\xff\xff");
  pickle.text("none").raw("\x8a\0"s).text("long1").raw("\x8a\1\x80");
  pickle.text("long2").raw("\x8a\2\xff\0"s).text("long3").raw("\x8a\3\0\0\xff"s);
  pickle.text("long8").raw("\x8a\x08\1\0\0\0\0\0\0\x80"s);
  pickle.text("real").raw("G\xbf\xf8\0\0\0\0\0\0"s);
  pickle.text("emb.weight").tensor("FloatStorage", "0", 1, 0, {1}, {1}).raw("u");
  const TemporaryFolder folder;
  const TensorSource source =
      open_checkpoint(save(folder, "file.pth", checkpoint_of(pickle.finish(), {floats({1})})));
  const std::map<std::string, std::string> metadata = {
      {"byte", "255"},   {"two", "65279"}, {"four", "-2"},      {"none", "0"},
      {"long1", "-128"}, {"long2", "255"}, {"long3", "-65536"}, {"long8", "-9223372036854775807"},
      {"real", "-1.5"}};
  EXPECT_EQ(source.metadata, metadata);
}

TEST(Pth, UnwrapsDictionariesAndPrefixes) {
  const TemporaryFolder folder;
  PickleWriter pickle;
  pickle.raw("}(")
      .text("epoch")
      .number(3)
      .text("state_dict")
      .global("collections", "OrderedDict")
      .raw(")R(");
  for (const char* name :
       {"_forward_module.model.emb.weight", "module.model.blocks.0.x", "model.embeddings.weight"}) {
    pickle.text(name).tensor("FloatStorage", "0", 6, 1, {5}, {1});
  }
  pickle.raw("u}").text("_metadata").raw("}sbu");
  const TensorSource source = open_checkpoint(
      save(folder, "file.pth", checkpoint_of(pickle.finish(), {floats({1, 2, 3, 4, 5, 6})})));
  ASSERT_EQ(source.tensors.size(), 3u);
  EXPECT_EQ(source.tensors[0].name, "emb.weight");
  EXPECT_EQ(source.tensors[1].name, "blocks.0.x");
  EXPECT_EQ(source.tensors[2].name, "model.embeddings.weight");
  EXPECT_EQ(floats_of(source.tensors[0]), (std::vector<float>{2, 3, 4, 5, 6}));
}

TEST(Pth, ReadsProtocolFour) {
  const TemporaryFolder folder;
  PickleWriter pickle;
  pickle.raw({'\x95', 1, 0, 0, 0, 0, 0, 0, 0}).raw("}\x94(").raw("\x8c\x01w\x94");
  pickle.raw("\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93");
  pickle.raw("((")
      .text("storage")
      .text("torch")
      .text("HalfStorage")
      .raw("\x93")
      .text("0")
      .text("cpu");
  pickle.number(2).raw("tQ").number(0).number(2).raw("\x85").number(1).raw("\x85\x89}tRu");
  const TensorSource source = open_checkpoint(
      save(folder, "file.pth", checkpoint_of(pickle.finish(), {std::string("\0\x3c\0\xc0", 4)})));
  ASSERT_EQ(source.tensors.size(), 1u);
  EXPECT_EQ(source.tensors[0].name, "w");
  EXPECT_EQ(to_float(static_cast<const Float16*>(source.tensors[0].data)[1]), -2);
}

TEST(Pth, ReadsArchivesWithAndWithoutZip64) {
  const TemporaryFolder folder;
  PickleWriter pickle;
  pickle.raw("}").text("w").tensor("FloatStorage", "0", 1, 0, {}, {}).raw("s");
  for (const bool in64 : {false, true}) {
    std::vector<Member> members = {{"m/data.pkl", pickle.finish(), in64},
                                   {"m/data/0", floats({4}), in64},
                                   {"m/byteorder", "little", in64}};
    for (const bool records : {false, true}) {
      const TensorSource source =
          open_checkpoint(save(folder, "file.pth", archive_of(members, records)));
      EXPECT_EQ(floats_of(source.tensors.at(0)), std::vector<float>{4});
      EXPECT_EQ(source.tensors[0].shape.rank(), 0);
    }
    members[2].data = "big";
    EXPECT_NE(error_of(save(folder, "file.pth", archive_of(members))).find("big-endian"),
              std::string::npos);
  }
}

TEST(Pth, RefusesBadArchivesAndSaysWhy) {
  const TemporaryFolder folder;
  PickleWriter pickle;
  pickle.raw("}").text("w").tensor("FloatStorage", "0", 1, 0, {}, {}).raw("s");
  const Member good = {"m/data.pkl", pickle.finish()}, data = {"m/data/0", floats({4})};
  const auto refuses = [&](const std::vector<Member>& members, const std::string& why) {
    const std::string error = error_of(save(folder, "file.pth", archive_of(members)));
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  refuses({{"readme.txt", "hello"}}, "without data.pkl");
  refuses({good, data, data}, "two members called m/data/0");
  refuses({good, {"other/data.pkl", "."}}, "several checkpoints");
  refuses({good, {"m/data/0", "abcd", false, 8}}, "compressed or encrypted");
  refuses({good}, "lacks the data of tensor w");
  refuses({good, {"m/data/0", "abcdefgh"}}, "expected 1 elements of 4 bytes");
}

TEST(Pth, RefusesTensorsThatDoNotFit) {
  const auto refuses = [](const std::string& name, const std::string& type, int64_t count,
                          int64_t offset, const std::vector<int64_t>& sizes,
                          const std::vector<int64_t>& strides, const std::string& why) {
    PickleWriter pickle;
    pickle.raw("}").text(name).tensor(type, "0", count, offset, sizes, strides).raw("s");
    const std::string error = error_of_pickle(pickle.finish());
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  const std::string outside = "reaches outside its storage";
  constexpr int64_t kHuge = int64_t{1} << 61;
  refuses("w", "FloatStorage", 6, 0, {7}, {1}, outside);
  refuses("w", "FloatStorage", 6, 1, {6}, {1}, outside);
  refuses("w", "FloatStorage", 6, -1, {2}, {1}, outside);
  refuses("w", "FloatStorage", 6, kHuge, {2}, {1}, outside);
  refuses("w", "FloatStorage", 6, 0, {2, 3}, {4, 1}, outside);
  refuses("w", "FloatStorage", 6, 5, {2}, {-1}, outside);
  refuses("w", "FloatStorage", 6, 0, {2}, {kHuge}, outside);
  refuses("w", "FloatStorage", 6, 0, {3, 2}, {kHuge * 2, kHuge * 2}, outside);
  refuses("w", "FloatStorage", 6, 0, {1000}, {0}, outside);
  refuses("w", "FloatStorage", 6, 0, {kHuge, kHuge}, {0, 0}, outside);
  refuses("w", "FloatStorage", 6, 0, {-2}, {1}, outside);
  refuses("w", "FloatStorage", 5, 0, {2}, {1}, "expected 5 elements");
  refuses("w", "FloatStorage", kHuge * 2, 0, {2}, {1}, "expected 4611686018427387904 elements");
  refuses("w", "HalfStorage", 6, 0, {2}, {1}, "expected 6 elements of 2 bytes");
  refuses("a.weight", "DoubleStorage", 3, 0, {2}, {1}, "is a DoubleStorage");
  refuses("blocks.0.att.key", "CharStorage", 24, 0, {2}, {1}, "is a CharStorage");
  refuses("a.bias", "FloatStorage", 6, 0, {0, 2, 2, 2, 2}, {1, 1, 1, 1, 1}, "of 5 axes");
  refuses("ids", "LongStorage", 3, 0, {3}, {1}, "holds no tensors");
}

TEST(Pth, RefusesOtherPicklesAndRunsNothing) {
  const auto refuses = [](const std::string& opcodes, const std::string& why) {
    const std::string error = error_of_pickle(PickleWriter().raw(opcodes).finish());
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  refuses("cposix\nsystem\n(X\4\0\0\0true", "asks for 'posix.system'");
  refuses(std::string("cos\nsystem\n(X\4\0\0\0truetR", 22), "asks for 'os.system'");
  refuses("c__builtin__\neval\n", "asks for '__builtin__.eval'");
  refuses("ctorch\nload", "a name does not end");
  refuses("i", "operation 0x69");
  refuses("", "a value is missing");
  refuses("}(", "a value is missing");
  refuses("t", "a mark is missing");
  refuses("h\7", "refers to value 7");
  refuses("j\1\2\3\4", "refers to value 67305985");
  refuses("]", "got a list");
  refuses("K\1", "got a number");
  refuses("K\1K\2a", "expected a list to add to, got a number");
  refuses("]K\1K\2s", "expected a dictionary to add to, got a list");
  refuses("}(K\1u", "a key without a value");
  refuses("}K\1R", "expected a call with a tuple");
  refuses("ctorch\nFloatStorage\n)R", "a storage type is called");
  refuses("ctorch._utils\n_rebuild_tensor_v2\n)R", "a tensor has a wrong number of fields");
  refuses("ctorch._utils\n_rebuild_parameter\nNNN\x87R", "expected a tensor at place 0");
  refuses("ccollections\nOrderedDict\nN\x85R", "built from 1 values");
  refuses("(X\7\0\0\0storage", "ends where");
  refuses("(NNNNNtQ", "expected a text at place 0");
  refuses("X\xff\xff\xff\xff", "4294967295 more bytes");
  refuses(
      "\x8a\x09"
      "123456789",
      "a number has 9 bytes");
  refuses(")}b", "attributes are set on a tuple");
  refuses("\x80\x01}", "protocol 1");
  std::string many;
  for (int i = 0; i < 3'000'000; ++i) many += ')';
  refuses(many, "more than 2097152 values");

  PickleWriter converted;
  converted.raw("}(").text("_strategy").text("cuda fp16").raw("u");
  EXPECT_NE(error_of_pickle(converted.finish()).find("converted by the rwkv pip package"),
            std::string::npos);
  PickleWriter text;
  text.raw("}(").text("emb.weight").text("oops").raw("u");
  EXPECT_NE(error_of_pickle(text.finish()).find("expected a tensor for emb.weight, got a text"),
            std::string::npos);
  PickleWriter twice;
  twice.raw("}(");
  for (const char* name : {"module.w", "w"}) {
    twice.text(name).tensor("FloatStorage", "0", 6, 0, {6}, {1});
  }
  twice.raw("u");
  EXPECT_NE(error_of_pickle(twice.finish()).find("two tensors called w"), std::string::npos);
}

// Lists and dictionaries that hold themselves, and marks and tuples a million deep.
TEST(Pth, SurvivesLoopsAndDepth) {
  EXPECT_NE(error_of_pickle(PickleWriter().raw("]q\1h\1a").finish()), "");
  PickleWriter loop;
  loop.raw("}q\1").text("model").raw("h\1s");
  EXPECT_NE(error_of_pickle(loop.finish()).find("holds no tensors"), std::string::npos);
  EXPECT_NE(error_of_pickle(PickleWriter().raw(std::string(1'000'000, '(')).finish()), "");
  std::string deep = ")";
  for (int i = 0; i < 1'000'000; ++i) deep += '\x85';
  EXPECT_NE(error_of_pickle(PickleWriter().raw(deep).finish()), "");
}

// A few bytes of pickle per copy must not become a file's size of memory each.
TEST(Pth, BoundsTheMemoryForTransposedTensors) {
  PickleWriter pickle;
  pickle.raw("}(")
      .text("0")
      .tensor("FloatStorage", "0", 100 * 100, 0, {100, 100}, {1, 100})
      .raw("q\1");
  for (int i = 1; i < 200; ++i) pickle.text(std::to_string(i)).raw("h\1");
  pickle.raw("u");
  const TemporaryFolder folder;
  const auto path =
      save(folder, "file.pth", checkpoint_of(pickle.finish(), {std::string(40000, 'x')}));
  EXPECT_NE(error_of(path).find("more than 4 times the file"), std::string::npos) << error_of(path);
}

TEST(Pth, EveryTruncationIsAnError) { expect_no_truncation_opens(small_file()); }

TEST(Pth, DamagedFilesAreSurvived) { expect_mutations_are_survived(small_file(), 6000, 2); }

TEST(Pth, ReadsGoldenFiles) {
  if (!std::filesystem::exists(golden_folder())) {
    GTEST_SKIP() << "there are no golden files at " << golden_folder() << " (set ROOKERY_SHARED)";
  }
  for (const char* name : {"ref-v4", "ref-v5.0", "ref-v5.1", "ref-v5.2", "ref-v6", "ref-v7"}) {
    SCOPED_TRACE(name);
    const auto path = golden_folder() / (std::string(name) + ".pth");
    const TensorSource source = open_checkpoint(path);
    EXPECT_EQ(source.format, "pth");
    int64_t bytes = 0;
    for (const StoredTensor& tensor : source.tensors) {
      bytes += tensor.bytes();
      EXPECT_EQ(tensor.dtype, std::string(name) == "ref-v7" ? DType::kBF16 : DType::kF32);
      EXPECT_EQ((static_cast<const std::byte*>(tensor.data) - source.file().bytes().data()) % 64,
                0);
      const int64_t count = tensor.shape.count();
      for (int64_t i = 0; i < count; ++i) {
        const float value = tensor.dtype == DType::kF32
                                ? static_cast<const float*>(tensor.data)[i]
                                : to_float(static_cast<const BFloat16*>(tensor.data)[i]);
        // Weights of a small model; garbage would be anything up to 1e38.
        ASSERT_LT(std::abs(value), 100) << tensor.name;
      }
    }
    // Nearly all of the file is tensors.
    EXPECT_GT(bytes, source.file().size() * 9 / 10);
    ASSERT_NE(source.find("emb.weight"), nullptr);
    EXPECT_EQ(source.find("emb.weight")->shape, (Shape{256, 128}));
    ASSERT_NE(source.find("blocks.2.ffn.value.weight"), nullptr);
    EXPECT_EQ(source.find("blocks.2.ffn.value.weight")->shape.rank(), 2);
    const std::string whole = read_text_file(path);
    const TemporaryFolder folder;
    for (const size_t length : {size_t{100}, whole.size() / 2, whole.size() - 1}) {
      EXPECT_NE(error_of(save(folder, "part", whole.substr(0, length))), "");
    }
  }
}

}  // namespace
}  // namespace rookery
