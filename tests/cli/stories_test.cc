// models/stories/train: the whole recipe on a small text, and the model that comes with the
// sources.
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"
#include "program_test.h"

namespace rookery {
namespace {

class Stories : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    std::ofstream text(path("train.txt"));
    for (int document = 0; document < 40; ++document) {
      for (int i = 0; i < (document % 4 == 0 ? 100 : 5); ++i) {
        text << "Once upon a time there were " << (document * 7919 + i * 31) % 101 << " hares.\n";
      }
      text << "<|endoftext|>\n";
    }
    std::ofstream valid(path("valid.txt"));
    for (int i = 0; i < 60; ++i) valid << "Once there were " << i * 37 % 101 << " elephants.\n";
  }

  // Runs the script; its exit code, and its output in the file `log`.
  int train(const std::string& settings, const std::string& arguments) const {
    const std::string command = fmt::format(
        "cd '{}' && env ROOKERY='{}' WORK=work DTYPE=f32 STEPS=4 TALE_STEPS=2 TALE_BYTES=1000 "
        "VOCAB=280 LAYERS=1 WIDTH=32 CONTEXT=16 BATCH=2 {} '{}/models/stories/train' {} > log 2>&1",
        folder_.string(), ROOKERY_PROGRAM, settings, ROOKERY_SOURCE_DIR, arguments);
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string log() const { return read_text_file(path("log")); }
};

TEST_F(Stories, TheRecipeGivesAModelAndItsCard) {
  ASSERT_EQ(train("", "train.txt valid.txt -o out"), 0) << log();
  const Json results = Json::parse(read_text_file(path("out/results.json")));
  const Json info = json_of({"info", path("out/stories.safetensors"), "--json"});
  EXPECT_EQ(results["parameters"], info["parameters"]);
  EXPECT_EQ(results["file_bytes"], fs::file_size(path("out/stories.safetensors")));
  EXPECT_TRUE(info["stored"].contains("q8_0"));
  EXPECT_EQ(results["tokens"], 4 * 16 * 2);
  EXPECT_EQ(results["tale_steps"], 2);
  const Json eval = json_of({"eval", "perplexity", path("out/stories.safetensors"), "--data",
                             path("valid.txt"), "--json"});
  EXPECT_NEAR(results["bits_per_byte"].get<double>(), eval["bits_per_byte"].get<double>(), 1e-4);
  // 30 of the 40 documents are short.
  const Json tales = Json::parse(read_text_file(path("work/tales.json")));
  EXPECT_EQ(tales["documents"], 30);

  const std::string card = read_text_file(path("out/README.md"));
  // Every field is filled; a sample may hold anything.
  EXPECT_EQ(card.substr(0, card.find("## Samples")).find('@'), std::string::npos) << card;
  EXPECT_EQ(card.find("@file:"), std::string::npos) << card;
  EXPECT_NE(card.find("1 layers, width 32, vocabulary 280"), std::string::npos) << card;
  EXPECT_NE(card.find("rookery train -o all"), std::string::npos) << card;
  EXPECT_NE(card.find("\nThe hare and the elephant"), std::string::npos) << card;
  EXPECT_EQ(card.find(folder_.string()), std::string::npos) << card;
  for (const char* name : {"learning_curve.svg", "learning_curve_tales.svg"}) {
    EXPECT_TRUE(read_text_file(folder_ / "out" / name).starts_with("<svg")) << name;
  }
  // The names of data and texts say nothing of the machine.
  const std::string model = read_text_file(path("out/stories.safetensors"));
  EXPECT_EQ(model.find(folder_.string()), std::string::npos);

  // The same again takes what is there; other settings do not mix with it.
  ASSERT_EQ(train("", "train.txt valid.txt -o again"), 0) << log();
  EXPECT_NE(log().find("all is there already"), std::string::npos) << log();
  EXPECT_TRUE(read_text_file(path("again/stories.safetensors")) == model);
  ASSERT_EQ(train("TALE_STEPS=3", "train.txt valid.txt -o again"), 0) << log();
  EXPECT_NE(log().find("all is there already"), std::string::npos) << log();
  EXPECT_EQ(Json::parse(read_text_file(path("again/results.json")))["tale_steps"], 3);
  EXPECT_EQ(train("SEED=2", "train.txt valid.txt -o again"), 1);
  EXPECT_NE(log().find("holds a run with other settings"), std::string::npos) << log();
}

TEST_F(Stories, SaysWhatIsWrong) {
  EXPECT_EQ(train("", "train.txt valid.txt"), 2);
  EXPECT_EQ(train("", "train.txt -o out"), 2);
  EXPECT_EQ(train("", "train.txt valid.txt -o out --what"), 2);
  EXPECT_EQ(train("", "train.txt none.txt -o out"), 1);
  EXPECT_NE(log().find("the text 'none.txt' cannot be read"), std::string::npos) << log();
  EXPECT_EQ(train("TALE_BYTES=10", "train.txt valid.txt -o out"), 1);
  EXPECT_NE(log().find("no document of"), std::string::npos) << log();
  EXPECT_FALSE(fs::exists(path("out/stories.safetensors")));
}

TEST_F(Stories, TheModelThatComesAlongTellsAStory) {
  const fs::path model = fs::path(ROOKERY_SOURCE_DIR) / "models/stories/stories.safetensors";
  ASSERT_TRUE(fs::exists(model)) << model << " belongs to the project";
  EXPECT_LT(fs::file_size(model), 16'000'000u);
  const Json info = json_of({"info", model.string(), "--json"});
  EXPECT_LE(info["parameters"], 15'000'000);
  EXPECT_GT(info["stored"]["q8_0"], info["stored"]["f32"]);
  const Result story = run(
      {"generate", model.string(), "--echo", "-p", "Once upon a time", "-n", "60", "--seed", "1"});
  EXPECT_EQ(story.code, 0) << story.err;
  EXPECT_TRUE(story.out.starts_with("Once upon a time")) << story.out;
}

}  // namespace
}  // namespace rookery
