// Where a model's tokenizer is found, and what is said when there is none that fits.
#include "checkpoints/tokenizers.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "core/error.h"
#include "core/threads.h"
#include "models/model.h"
#include "tokenizers/files_for_tests.h"

namespace rookery {
namespace {

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class FindTokenizer : public ::testing::Test {
 protected:
  // As load_model() would give it, from a file in a folder of its own.
  LoadedModel model_of(int64_t vocabulary) {
    LoadedModel loaded;
    loaded.file = folder_.path() / "m.safetensors";
    loaded.model = std::make_unique<Model>(Model::planned(make_config("4", 1, 8, vocabulary)));
    return loaded;
  }
  std::string name_of(const LoadedModel& model, const std::string& name = "") {
    return std::string(require_tokenizer(model, name)->name());
  }

  TemporaryFolder folder_;
  nlohmann::json bpe_ = small_bpe();
};

TEST_F(FindTokenizer, WhatWasNamedGoesBeforeWhatTheModelCarriesAndThatBeforeWhatIsBeside) {
  LoadedModel model = model_of(300);
  EXPECT_EQ(find_tokenizer(model, ""), nullptr);
  save(folder_, "rwkv_vocab_v20230424.txt", small_world());
  EXPECT_EQ(name_of(model), "world");
  save(folder_, "m.tokenizer.json", bpe_.dump());
  EXPECT_EQ(name_of(model), "bpe");
  model.metadata["tokenizer"] = small_world();
  EXPECT_EQ(name_of(model), "world");
  EXPECT_EQ(name_of(model, "bytes"), "bytes");
}

TEST_F(FindTokenizer, BytesHave256Ids) {
  EXPECT_EQ(name_of(model_of(256)), "bytes");
  EXPECT_EQ(find_tokenizer(model_of(257), ""), nullptr);
}

TEST_F(FindTokenizer, HasAllIdsOfTheModel) {
  save(folder_, "rwkv_vocab_v20230424.txt", small_world());
  const auto tokenizer = require_tokenizer(model_of(300), "");
  EXPECT_EQ(tokenizer->vocab_size(), 300);
  EXPECT_EQ(tokenizer->bytes_of(299), "");
}

TEST_F(FindTokenizer, SizesThatDoNotFitArePassedOverAndTold) {
  save(folder_, "rwkv_vocab_v20230424.txt", small_world());
  std::string missing;
  EXPECT_EQ(find_tokenizer(model_of(200), "", &missing), nullptr);
  EXPECT_NE(missing.find("about 200 ids"), std::string::npos) << missing;
  EXPECT_NE(missing.find("rwkv_vocab_v20230424.txt' has 265 ids"), std::string::npos) << missing;
  // Rounding up explains a few hundred ids, not more.
  EXPECT_NE(find_tokenizer(model_of(265 + 511), ""), nullptr);
  EXPECT_EQ(find_tokenizer(model_of(265 + 512), ""), nullptr);
}

TEST_F(FindTokenizer, ErrorsSayWhatIsExpectedAndNameNoFlag) {
  const std::string none = error_of([&] { require_tokenizer(model_of(65536), ""); });
  EXPECT_NE(none.find("no tokenizer for '"), std::string::npos) << none;
  EXPECT_NE(none.find("RWKV World: rwkv_vocab_v20230424.txt"), std::string::npos) << none;
  EXPECT_EQ(none.find("--"), std::string::npos) << none;
  EXPECT_NE(error_of([&] { require_tokenizer(model_of(50277), ""); }).find("20B_tokenizer.json"),
            std::string::npos);
  // A tokenizer that was named and has too many ids is refused, not passed over.
  const std::string file = save(folder_, "world.txt", small_world()).string();
  const std::string large = error_of([&] { require_tokenizer(model_of(260), file); });
  EXPECT_NE(large.find("has 265 ids, the model 260"), std::string::npos) << large;
}

TEST_F(FindTokenizer, NamedFolders) {
  const std::string folder = folder_.path().string();
  EXPECT_NE(error_of([&] { named_tokenizer(folder); }).find("holds no tokenizer"),
            std::string::npos);
  save(folder_, "rwkv_vocab_v20230424.txt", small_world());
  EXPECT_EQ(named_tokenizer(folder)->name(), "world");
  save(folder_, "tokenizer.json", bpe_.dump());
  EXPECT_NE(error_of([&] { named_tokenizer(folder); }).find("several tokenizers"),
            std::string::npos);
  // With a model, the size decides.
  nlohmann::json large = bpe_;
  large["model"]["vocab"]["zz"] = 400;
  save(folder_, "tokenizer.json", large.dump());
  EXPECT_EQ(name_of(model_of(300), folder), "world");
  const std::string none = error_of([&] { require_tokenizer(model_of(100), folder); });
  EXPECT_NE(none.find("holds no tokenizer for a model of 100 ids"), std::string::npos) << none;
}

}  // namespace
}  // namespace rookery
