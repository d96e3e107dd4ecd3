// Which file of a folder is the model that is meant.
#include "checkpoints/find.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "core/error.h"
#include "core/threads.h"
#include "models/model.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

class FindModelFile : public ::testing::Test {
 protected:
  std::filesystem::path put(const std::string& name) { return save(folder_, name, "x"); }
  // A model as training writes it after so many steps.
  std::filesystem::path put_model(int64_t step) {
    ThreadPool pool(1);
    const Model model = Model::initialised(make_config("4", 1, 8, 256), {.scheme = "random"}, pool);
    RunState run;
    run.step = step;
    const std::filesystem::path path = folder_.path() / "model.safetensors";
    save_model(path, model, run);
    return path;
  }
  std::filesystem::path found() const { return find_model_file(folder_.path().string()); }
  std::string error() const {
    try {
      return "found " + found().string();
    } catch (const Error& error) {
      return error.what();
    }
  }

  TemporaryFolder folder_;
};

TEST(Checkpoints, StepsAreInTheirNames) {
  EXPECT_EQ(checkpoint_path("run", 1000), "run/checkpoint-00001000.safetensors");
  EXPECT_EQ(step_of_checkpoint(checkpoint_path("run", 0)), 0);
  EXPECT_EQ(step_of_checkpoint(checkpoint_path("run", 123456789012)), 123456789012);
  for (const char* name :
       {"checkpoint-.safetensors", "checkpoint-1.pth", "checkpoint-1x.safetensors",
        "checkpoint--1.safetensors", "model.safetensors", "checkpoint-1",
        "checkpoint-9999999999999999999.safetensors", ""}) {
    EXPECT_EQ(step_of_checkpoint(name), -1) << name;
  }
}

TEST_F(FindModelFile, ListsCheckpointsByTheirStep) {
  EXPECT_TRUE(list_checkpoints(folder_.path() / "absent").empty());
  // More digits than the others: the name would sort before them.
  const auto last = put("checkpoint-100000000.safetensors");
  const auto first = put("checkpoint-00000009.safetensors");
  const auto second = put("checkpoint-00000010.safetensors");
  put("checkpoint-00000011.safetensors.tmp");
  EXPECT_EQ(list_checkpoints(folder_.path()),
            (std::vector<std::filesystem::path>{first, second, last}));
}

TEST_F(FindModelFile, AFileIsItself) {
  EXPECT_EQ(find_model_file("absent.pth"), "absent.pth");
  const auto file = put("model.pth");
  EXPECT_EQ(find_model_file(file.string()), file);
}

TEST_F(FindModelFile, TheNewestOfARun) {
  put("checkpoint-00000009.safetensors");
  const auto checkpoint = put("checkpoint-00000020.safetensors");
  EXPECT_EQ(found(), checkpoint);
  // The model that a run wrote at its end, unless the run has gone on since.
  const auto model = put_model(20);
  EXPECT_EQ(step_of_model(model), 20);
  EXPECT_EQ(found(), model);
  const auto later = put("checkpoint-00000021.safetensors");
  EXPECT_EQ(found(), later);
  // A Hugging Face folder is a model as a whole.
  put("config.json");
  EXPECT_EQ(found(), folder_.path());
}

TEST_F(FindModelFile, TheOnlyFileThatCouldBeAModel) {
  EXPECT_NE(error().find("holds no model"), std::string::npos) << error();
  put("notes.txt");
  EXPECT_NE(error().find("holds no model"), std::string::npos) << error();
  const auto only = put("RWKV-4.pth");
  EXPECT_EQ(found(), only);
  put("other.bin");
  EXPECT_NE(error().find("holds 2 models (RWKV-4.pth, other.bin)"), std::string::npos) << error();
}

}  // namespace
}  // namespace rookery
