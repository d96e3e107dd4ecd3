#include "formats/ggmf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "formats/files_for_tests.h"

namespace rookery {
namespace {

enum Type : int32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 7, kQ5_1 = 8, kQ8_0 = 9 };

// Writes the format; sizes are given slowest first.
class Writer {
 public:
  Writer(int32_t vocabulary, int32_t channels, int32_t layers, int32_t version = 101,
         int32_t type = kF32) {
    for (const int32_t field : {0x67676d66, version, vocabulary, channels, layers, type}) {
      append(out_, field);
    }
  }
  Writer& add(const std::string& name, std::vector<int32_t> sizes, int32_t type,
              const std::string& data) {
    append(out_, static_cast<int32_t>(sizes.size()));
    append(out_, static_cast<int32_t>(name.size()));
    append(out_, type);
    for (size_t i = sizes.size(); i-- > 0;) append(out_, sizes[i]);
    out_ += name + data;
    return *this;
  }
  Writer& add(const std::string& name, std::vector<int32_t> sizes,
              const std::vector<float>& values) {
    std::string data;
    for (const float value : values) append(data, value);
    return add(name, std::move(sizes), kF32, data);
  }
  // [2, 1], the embedding and the head of a model with one channel
  Writer& add_ends() {
    return add("emb.weight", {2, 1}, {1, 2}).add("head.weight", {2, 1}, {3, 4});
  }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

std::vector<float> floats_of(const TensorSource& source, const std::string& name) {
  const StoredTensor* tensor = source.find(name);
  if (tensor == nullptr || tensor->dtype != DType::kF32) {
    ADD_FAILURE() << "no f32 tensor " << name;
    return {};
  }
  return numbers_of<float>(*tensor);
}

Shape shape_of(const TensorSource& source, const std::string& name) {
  const StoredTensor* tensor = source.find(name);
  return tensor == nullptr ? Shape{-1} : tensor->shape;
}

std::vector<float> counting(int count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TensorSource open_bytes(const std::string& bytes) {
  const TemporaryFolder folder;
  return open_checkpoint(save(folder, "model.bin", bytes));
}

std::string small_file() {
  std::string block;
  append<uint16_t>(block, 0x3c00);
  block += std::string(16, '\x21');
  return Writer(2, 1, 1)
      .add("blocks.0.att.time_decay", {3}, {-0.5f, -1, -2})
      .add("blocks.0.att.time_mix_k", {1}, {0.5f})
      .add("blocks.0.att.key.weight", {1, 32}, kQ4_0, block)
      .add_ends()
      .bytes();
}

TEST(Ggmf, RestoresGeneration4) {
  const TensorSource source =
      open_bytes(Writer(2, 1, 1)
                     .add("blocks.0.att.time_decay", {4}, {-0.5f, -1, -2, -0.0f})
                     .add("blocks.0.att.time_first", {2}, {-3, 3})
                     .add("blocks.0.att.time_mix_k", {2}, {0.25f, 0.5f})
                     .add("blocks.0.att.key.weight", {3, 2}, counting(6))
                     .add_ends()
                     .bytes());
  EXPECT_EQ(source.format, "ggmf");
  EXPECT_EQ(source.epsilons.group_norm, 64e-5f);
  EXPECT_EQ(source.metadata.at("weight_type"), "F32");
  const std::vector<float> decay = floats_of(source, "blocks.0.att.time_decay");
  ASSERT_EQ(decay.size(), 4u);
  EXPECT_EQ(decay[0], static_cast<float>(std::log(0.5)));
  EXPECT_EQ(decay[1], 0);
  EXPECT_EQ(-std::exp(decay[3]), -0.0f);
  EXPECT_TRUE(std::isfinite(decay[3]));
  EXPECT_EQ(floats_of(source, "blocks.0.att.time_first"), (std::vector<float>{-3, 3}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_mix_k"), (Shape{1, 1, 2}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.key.weight"), (Shape{3, 2}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.key.weight"), counting(6));
}

TEST(Ggmf, RestoresGeneration5) {
  const std::vector<float> stored = {-6, -1, 0, 1.5f};
  std::vector<float> decay, first;
  for (const float d : stored) {
    decay.push_back(static_cast<float>(std::exp(-std::exp(double{d}))));
    first.push_back(static_cast<float>(std::exp(double{d})));
  }
  const auto near = [&](const std::vector<float>& got) {
    ASSERT_EQ(got.size(), stored.size());
    // A decay near 1 has lost digits in the file: 2^-25 / exp(-6), relative.
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], stored[i], 2e-5) << i;
  };
  const TensorSource per_head = open_bytes(Writer(2, 1, 1)
                                               .add("blocks.0.att.time_decay", {4, 1, 1}, decay)
                                               .add("blocks.0.att.time_first", {4, 1, 1}, first)
                                               .add("blocks.0.att.ln_x.weight", {1}, {1})
                                               .add_ends()
                                               .bytes());
  EXPECT_EQ(per_head.epsilons.group_norm, 1e-5f);
  EXPECT_EQ(shape_of(per_head, "blocks.0.att.time_decay"), Shape{4});
  EXPECT_EQ(shape_of(per_head, "blocks.0.att.time_first"), Shape{4});
  near(floats_of(per_head, "blocks.0.att.time_decay"));
  near(floats_of(per_head, "blocks.0.att.time_first"));

  const TensorSource per_channel = open_bytes(Writer(2, 1, 1)
                                                  .add("blocks.0.att.time_decay", {2, 2, 1}, decay)
                                                  .add("blocks.0.att.time_faaaa", {2, 2, 1}, stored)
                                                  .add("blocks.0.att.ln_x.weight", {1}, {1})
                                                  .add_ends()
                                                  .bytes());
  EXPECT_EQ(shape_of(per_channel, "blocks.0.att.time_decay"), (Shape{2, 2}));
  EXPECT_EQ(shape_of(per_channel, "blocks.0.att.time_faaaa"), (Shape{2, 2}));
  near(floats_of(per_channel, "blocks.0.att.time_decay"));
  EXPECT_EQ(floats_of(per_channel, "blocks.0.att.time_faaaa"), stored);

  // Decays that float32 rounded away stay what they are, and trainable.
  const TensorSource rounded = open_bytes(Writer(2, 1, 1)
                                              .add("blocks.0.att.time_decay", {2, 1, 1}, {0, 1})
                                              .add("blocks.0.att.ln_x.weight", {1}, {1})
                                              .add_ends()
                                              .bytes());
  const std::vector<float> ends = floats_of(rounded, "blocks.0.att.time_decay");
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_TRUE(std::isfinite(ends[0]) && std::isfinite(ends[1]));
  EXPECT_EQ(static_cast<float>(std::exp(-std::exp(double{ends[0]}))), 0);
  EXPECT_EQ(static_cast<float>(std::exp(-std::exp(double{ends[1]}))), 1);
}

TEST(Ggmf, RestoresGeneration6) {
  const TensorSource source =
      open_bytes(Writer(2, 1, 1)
                     .add("blocks.0.att.time_maa_x", {2}, {1, 2})
                     .add("blocks.0.att.time_maa_w1", {3, 2}, counting(6))
                     .add("blocks.0.att.time_maa_w2", {2, 3, 2}, counting(12))
                     .add("blocks.0.att.time_decay", {2, 2, 1}, {-5, -4, -3, -2})
                     .add("blocks.0.att.time_decay_w1", {2, 2}, counting(4))
                     .add("blocks.0.att.time_faaaa", {2, 2, 1}, counting(4))
                     .add("blocks.0.att.ln_x.weight", {1}, {1})
                     .add_ends()
                     .bytes());
  EXPECT_EQ(source.epsilons.group_norm, 64e-5f);
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_maa_x"), (Shape{1, 1, 2}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_maa_w1"), (Shape{2, 3}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.time_maa_w1"), (std::vector<float>{0, 2, 4, 1, 3, 5}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_maa_w2"), (Shape{2, 2, 3}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.time_maa_w2"),
            (std::vector<float>{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_decay"), (Shape{1, 1, 4}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.time_decay"), (std::vector<float>{-5, -4, -3, -2}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.time_decay_w1"), (std::vector<float>{0, 2, 1, 3}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.time_faaaa"), (Shape{2, 2}));
}

TEST(Ggmf, RestoresGeneration7) {
  const TensorSource source = open_bytes(Writer(2, 1, 1)
                                             .add("blocks.0.att.x_rwkvag", {6, 1, 2}, counting(12))
                                             .add("blocks.0.att.w1", {3, 2}, counting(6))
                                             .add("blocks.0.att.w0", {1, 1, 2}, {1, 2})
                                             .add("blocks.0.att.r_k", {1, 2}, {1, 2})
                                             .add("blocks.0.ffn.x_k", {2}, {1, 2})
                                             .add_ends()
                                             .bytes());
  EXPECT_EQ(source.epsilons.group_norm, 64e-5f);
  EXPECT_EQ(source.find("blocks.0.att.x_rwkvag"), nullptr);
  float start = 0;
  for (const char part : std::string("rwkvag")) {
    const std::string name = std::string("blocks.0.att.x_") + part;
    EXPECT_EQ(shape_of(source, name), (Shape{1, 1, 2}));
    EXPECT_EQ(floats_of(source, name), (std::vector<float>{start, start + 1}));
    start += 2;
  }
  EXPECT_EQ(shape_of(source, "blocks.0.att.w1"), (Shape{2, 3}));
  EXPECT_EQ(floats_of(source, "blocks.0.att.w1"), (std::vector<float>{0, 2, 4, 1, 3, 5}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.w0"), (Shape{1, 1, 2}));
  EXPECT_EQ(shape_of(source, "blocks.0.att.r_k"), (Shape{1, 2}));
  EXPECT_EQ(shape_of(source, "blocks.0.ffn.x_k"), (Shape{1, 1, 2}));
}

// Element j of each block is j, or j mod 16, in the type's own code.
TEST(Ggmf, DequantisesEveryBlockType) {
  constexpr uint16_t kHalf = 0x3800, kTwo = 0x4000;  // scale 0.5, least value 2
  std::string q4_0, q4_1, q5_0, q5_1, q8_0, nibbles, bytes;
  for (int j = 0; j < 16; ++j) nibbles += static_cast<char>(j | j << 4);
  for (int j = 0; j < 32; ++j) bytes += static_cast<char>(j - 20);
  for (std::string* block : {&q4_0, &q4_1, &q5_0, &q5_1, &q8_0}) append(*block, kHalf);
  for (std::string* block : {&q4_1, &q5_1}) append(*block, kTwo);
  for (std::string* block : {&q5_0, &q5_1}) append(*block, uint32_t{0xffff0000});
  for (std::string* block : {&q4_0, &q4_1, &q5_0, &q5_1}) *block += nibbles;
  q8_0 += bytes;
  const auto twice = [](const std::string& block) { return block + block; };
  const TensorSource source =
      open_bytes(Writer(2, 1, 1, 101, kQ5_1)
                     .add("q4_0", {2, 32}, kQ4_0, twice(q4_0))
                     .add("q4_1", {2, 32}, kQ4_1, twice(q4_1))
                     .add("q5_0", {2, 32}, kQ5_0, twice(q5_0))
                     .add("q5_1", {2, 32}, kQ5_1, twice(q5_1))
                     .add("q8_0", {2, 32}, kQ8_0, twice(q8_0))
                     .add("blocks.0.f16", {2}, kF16, std::string("\0\x3c\0\xc0", 4))
                     .add_ends()
                     .bytes());
  EXPECT_EQ(source.metadata.at("weight_type"), "Q5_1");
  const auto expect = [&](const std::string& name, float (*value)(int j)) {
    const std::vector<float> got = floats_of(source, name);
    ASSERT_EQ(got.size(), 64u);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(got[static_cast<size_t>(i)], value(i % 32)) << name << " " << i;
    }
  };
  expect("q4_0", [](int j) { return static_cast<float>(j % 16 - 8) * 0.5f; });
  expect("q4_1", [](int j) { return static_cast<float>(j % 16) * 0.5f + 2; });
  expect("q5_0", [](int j) { return static_cast<float>(j - 16) * 0.5f; });
  expect("q5_1", [](int j) { return static_cast<float>(j) * 0.5f + 2; });
  expect("q8_0", [](int j) { return static_cast<float>(j - 20) * 0.5f; });
  const StoredTensor* half = source.find("blocks.0.f16");
  ASSERT_NE(half, nullptr);
  ASSERT_EQ(half->dtype, DType::kF16);
  EXPECT_EQ(to_float(numbers_of<Float16>(*half)[1]), -2);
  EXPECT_EQ(source.find("q4_0")->data, nullptr);  // nothing is made before it is asked for
}

TEST(Ggmf, RefusesBadFilesAndSaysWhy) {
  const auto refuses = [](const Writer& writer, const std::string& why) {
    const TemporaryFolder folder;
    const std::string error = error_of(save(folder, "bad.bin", writer.bytes()));
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  const auto one = [] { return Writer(2, 1, 1); };
  const std::vector<float> number = {1};
  refuses(Writer(2, 1, 1, 99), "version 99");
  refuses(Writer(2, 1, 1, 100, kQ5_1), "old version 100");
  refuses(Writer(2, 1, 0), "0 layers");
  refuses(Writer(2, 1, 1 << 30), "layers: the file is damaged");
  refuses(Writer(2, 1, 2).add("blocks.0.a", {1}, number).add_ends(),
          "expected 2 layers, found tensors of 1");
  refuses(one().add("blocks.0.a", {1}, number), "has no emb.weight");
  refuses(Writer(3, 1, 1).add_ends(), "the header claims [3, 1] for emb.weight, which has [2, 1]");
  refuses(one().add("x", {1}, 4, "abcd"), "tensor x of");
  refuses(one().add("x", {1}, 4, "abcd"), "has the type Q4_1_O: expected F32");
  refuses(one().add("x", {1}, 12, "abcd"), "has the type Q3_K: expected F32");
  refuses(one().add("x", {1}, 30, "abcd"), "has the type 30, which does not exist");
  refuses(one().add("x", {1, 1, 1, 1}, number), "4 dimensions");
  refuses(one().add("", {1}, number), "a name of 0 bytes");
  refuses(one().add("x", {-1}, number), "claims the sizes [-1]");
  refuses(one().add("x", {0}, number), "claims the sizes [0]");
  refuses(one().add("x", {33}, kQ4_0, std::string(36, 'x')), "the first a multiple of 32");
  refuses(one().add("x", {1 << 30, 1 << 30, 1 << 30}, number), "claims the sizes");
  refuses(one().add("x", {1 << 30, 1 << 30}, number), "more than the file can hold");
  refuses(one().add("x", {3}, number), "expected 12 more bytes");
  refuses(one().add("a b", {1}, number).add("blocks.0.a", {1}, number).add_ends(), "not printable");
  refuses(one().add("blocks.0.a", {1}, number).add("blocks.0.a", {1}, number).add_ends(),
          "two tensors called");
  refuses(one().add("blocks.0.att.time_decay", {1}, {1}).add_ends(), "expected one from -inf to 0");
  refuses(one().add("blocks.0.att.time_decay", {1}, {NAN}).add_ends(), "is nan");
  refuses(one().add("blocks.0.att.x_rwkvag", {5}, counting(5)).add_ends(), "expected 6 vectors");
  refuses(one().add("blocks.0.att.w1", {5}, counting(5)).add_ends(), "expected a matrix");
}

TEST(Ggmf, EveryTruncationIsAnError) { expect_no_truncation_opens(small_file()); }

TEST(Ggmf, DamagedFilesAreSurvived) { expect_mutations_are_survived(small_file(), 6000, 3); }

TEST(Ggmf, ReadsGoldenFiles) {
  if (!std::filesystem::exists(golden_folder())) {
    GTEST_SKIP() << "there are no golden files at " << golden_folder() << " (set ROOKERY_SHARED)";
  }
  struct Expected {
    const char* file;
    int64_t vocabulary, channels, layers;
    float epsilon;
  };
  constexpr Expected kFiles[] = {
      {"tiny-rwkv-4v0-660K-FP32.bin", 256, 128, 4, 64e-5f},
      {"tiny-rwkv-5v2-730K-FP32.bin", 256, 64, 12, 1e-5f},
      {"tiny-rwkv-6v0-3m-Q5_1.bin", 256, 128, 12, 64e-5f},
      {"tiny-rwkv-7v0-834K-FP32.bin", 256, 64, 12, 64e-5f},
      {"tiny-rwkv-7v0-834K-Q5_1.bin", 256, 64, 12, 64e-5f},
  };
  for (const Expected& expected : kFiles) {
    SCOPED_TRACE(expected.file);
    const TensorSource source = open_checkpoint(golden_folder() / expected.file);
    EXPECT_EQ(source.epsilons.group_norm, expected.epsilon);
    EXPECT_EQ(shape_of(source, "emb.weight"), (Shape{expected.vocabulary, expected.channels}));
    EXPECT_NE(source.find(fmt::format("blocks.{}.ffn.value.weight", expected.layers - 1)), nullptr);
    for (const StoredTensor& tensor : source.tensors) {
      ASSERT_EQ(tensor.dtype, DType::kF32) << tensor.name;
      for (const float value : floats_of(source, tensor.name)) {
        ASSERT_LT(std::abs(value), 200) << tensor.name;
      }
    }
  }

  // One model, once as it was trained and once quantised to 32 steps per block.
  const TensorSource whole = open_checkpoint(golden_folder() / "tiny-rwkv-7v0-834K-FP32.bin");
  const TensorSource coarse = open_checkpoint(golden_folder() / "tiny-rwkv-7v0-834K-Q5_1.bin");
  ASSERT_EQ(whole.tensors.size(), coarse.tensors.size());
  for (const StoredTensor& tensor : whole.tensors) {
    const std::vector<float> a = floats_of(whole, tensor.name), b = floats_of(coarse, tensor.name);
    ASSERT_EQ(a.size(), b.size());
    const auto [least, most] = std::minmax_element(a.begin(), a.end());
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i], b[i], (*most - *least) / 31) << tensor.name << " " << i;
    }
  }
  EXPECT_EQ(shape_of(whole, "blocks.1.att.v1"), (Shape{64, 32}));
  EXPECT_EQ(shape_of(whole, "blocks.1.att.v2"), (Shape{32, 64}));
  EXPECT_EQ(shape_of(whole, "blocks.1.att.x_g"), (Shape{1, 1, 64}));

  const TensorSource six = open_checkpoint(golden_folder() / "tiny-rwkv-6v0-3m-Q5_1.bin");
  EXPECT_EQ(shape_of(six, "blocks.0.att.time_maa_w1"), (Shape{128, 160}));
  EXPECT_EQ(shape_of(six, "blocks.0.att.time_maa_w2"), (Shape{5, 32, 128}));
  EXPECT_EQ(shape_of(six, "blocks.0.att.time_decay_w2"), (Shape{64, 128}));
  EXPECT_EQ(shape_of(six, "blocks.0.att.time_decay"), (Shape{1, 1, 128}));
  const TensorSource five = open_checkpoint(golden_folder() / "tiny-rwkv-5v2-730K-FP32.bin");
  EXPECT_EQ(shape_of(five, "blocks.0.att.time_decay"), (Shape{8, 8}));
  // Training starts the decays between -6 and -1 or so, and moves them a little.
  for (const float decay : floats_of(five, "blocks.0.att.time_decay")) {
    EXPECT_GT(decay, -12);
    EXPECT_LT(decay, 5);
  }
}

}  // namespace
}  // namespace rookery
