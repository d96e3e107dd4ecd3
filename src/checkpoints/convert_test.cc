// Conversions as a program calls them; tests/cli/convert_test.cc has the rest.
#include "checkpoints/convert.h"

#include <gtest/gtest.h>

#include "checking/checked_run.h"
#include "checking/files_for_tests.h"
#include "checkpoints/fresh_model.h"
#include "checkpoints/load.h"
#include "core/error.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

class ConvertModel : public ::testing::Test {
 protected:
  ConvertModel() {
    write_fresh_model(model_, make_config("4", 2, 32, 256), {.scheme = "random", .seed = 3},
                      DType::kF32, pool_);
  }
  fs::path path(const char* name) const { return folder_.path() / name; }
  static void expect_same_numbers(const Model& one, const Model& two) {
    ASSERT_EQ(one.parameters().size(), two.parameters().size());
    for (const Parameter& parameter : one.parameters()) {
      EXPECT_EQ(elements(parameter.value), elements(two.parameter(parameter.spec.name).value))
          << parameter.spec.name;
    }
  }
  static std::unique_ptr<Model> load(const fs::path& path) {
    return load_model(path.string(), MatrixType::kF32).model;
  }

  ThreadPool pool_{1};
  TemporaryFolder folder_;
  fs::path model_ = path("model.safetensors");
};

TEST_F(ConvertModel, ThereAndBack) {
  const Conversion there = convert_model(model_, path("m.pth"), {.format = ModelFormat::kPth});
  EXPECT_EQ(there.input_format, "safetensors");
  EXPECT_EQ(there.generation, "4");
  EXPECT_EQ(there.dtype, "f32");
  EXPECT_EQ(there.bytes, 4 * there.parameters);
  EXPECT_EQ(there.parameters, Model::planned(make_config("4", 2, 32, 256)).parameter_count());
  EXPECT_EQ(there.lost_metadata, std::vector<std::string>{"rookery"});
  EXPECT_TRUE(there.tokenizer.empty());
  convert_model(path("m.pth"), path("hf"), {.format = ModelFormat::kHuggingface});
  const Conversion back = convert_model(path("hf"), path("back.safetensors"), {});
  EXPECT_EQ(back.tensors, there.tensors);
  EXPECT_TRUE(back.lost_metadata.empty());
  expect_same_numbers(*load(model_), *load(path("back.safetensors")));
}

TEST_F(ConvertModel, TypesAndBlocks) {
  const Conversion low = convert_model(model_, path("low.safetensors"), {.dtype = DType::kBF16});
  EXPECT_EQ(low.dtype, "bf16");
  EXPECT_EQ(low.bytes, 2 * low.parameters);
  const Conversion blocks = convert_model(model_, path("blocks.safetensors"), {.blocks = true});
  EXPECT_EQ(blocks.dtype, "mixed");
  EXPECT_LT(blocks.bytes, low.bytes);
  EXPECT_THROW(validate({.format = ModelFormat::kPth, .blocks = true}), Error);
  EXPECT_THROW(convert_model(model_, path("b.pth"), {.format = ModelFormat::kPth, .blocks = true}),
               Error);
}

TEST_F(ConvertModel, ProgressEndsWithAllBytesAndMayStop) {
  ConversionOptions options;
  int64_t last = 0, total = 0;
  options.on_progress = [&](int64_t done, int64_t of) {
    EXPECT_GT(done, last);
    last = done;
    total = of;
  };
  const Conversion result = convert_model(model_, path("whole.safetensors"), options);
  EXPECT_EQ(last, result.bytes);
  EXPECT_EQ(total, result.bytes);
  options.on_progress = [](int64_t, int64_t) { fail("enough"); };
  EXPECT_THROW(convert_model(model_, path("part.safetensors"), options), Error);
  EXPECT_FALSE(fs::exists(path("part.safetensors")));
}

TEST_F(ConvertModel, NothingIsReplacedUnasked) {
  EXPECT_THROW(convert_model(model_, model_, {.replace = true}), Error);
  convert_model(model_, path("there.safetensors"), {});
  EXPECT_THROW(convert_model(model_, path("there.safetensors"), {}), Error);
  convert_model(model_, path("there.safetensors"), {.dtype = DType::kF16, .replace = true});
  const LoadedModel replaced =
      load_model(path("there.safetensors").string(), MatrixType::kAsStored);
  EXPECT_EQ(replaced.model->head().value.dtype, DType::kF16);
}

TEST(ModelFormats, ByNameAndEnding) {
  for (const ModelFormat format :
       {ModelFormat::kSafetensors, ModelFormat::kPth, ModelFormat::kHuggingface}) {
    EXPECT_EQ(parse_model_format(name_of(format)), format);
  }
  EXPECT_THROW(parse_model_format("gguf"), Error);
  EXPECT_EQ(format_of_file("a/b.pth"), ModelFormat::kPth);
  EXPECT_EQ(format_of_file("a/b.st"), ModelFormat::kSafetensors);
  EXPECT_EQ(format_of_file("a/b"), ModelFormat::kHuggingface);
  EXPECT_THROW(format_of_file("a/b.gguf"), Error);
}

TEST_F(ConvertModel, AFreshModelIsTheInitialisedOne) {
  const Model expected =
      Model::initialised(make_config("4", 2, 32, 256), {.scheme = "random", .seed = 3}, pool_);
  const LoadedModel loaded = load_model(model_.string(), MatrixType::kF32);
  expect_same_numbers(expected, *loaded.model);
  EXPECT_NE(loaded.metadata.at("rookery").find("\"tokenizer\":\"bytes\""), std::string::npos);
  const Model half = write_fresh_model(path("half.safetensors"), make_config("4", 2, 32, 300),
                                       {.scheme = "random"}, DType::kF16, pool_);
  EXPECT_EQ(half.head().value.dtype, DType::kF16);
  const LoadedModel again = load_model(path("half.safetensors").string(), MatrixType::kAsStored);
  EXPECT_EQ(again.model->head().value.dtype, DType::kF16);
  EXPECT_EQ(again.metadata.at("rookery").find("tokenizer"), std::string::npos);
}

}  // namespace
}  // namespace rookery
