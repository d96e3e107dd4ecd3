// examples/embed, the program around the library, as README shows it.

#include "cli/program_test.h"

namespace rookery {
namespace {

const std::string kStories =
    (fs::path(ROOKERY_SOURCE_DIR) / "models" / "stories" / "stories.safetensors").string();

class Embed : public Cli {};

TEST_F(Embed, TellsAStoryAndTalks) {
  const Result result = run({kStories, "Once upon a time"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(result.out.starts_with("RWKV-4, 13")) << result.out;
  for (const char* text : {"\n\nOnce upon a time", "\n\n100 tokens, ended: length\n",
                           "nats per token: ", "\n2 messages, "}) {
    EXPECT_NE(result.out.find(text), std::string::npos) << text << "\n" << result.out;
  }
  // A model of stories predicts its own story well: under 2 nats per token, and not nothing.
  const double nats = std::stod(result.out.substr(result.out.find("nats per token: ") + 16));
  EXPECT_GT(nats, 0.1);
  EXPECT_LT(nats, 2.5);
  EXPECT_EQ(run({kStories, "Once upon a time"}).out, result.out) << "the same seed";
}

TEST_F(Embed, Errors) {
  EXPECT_EQ(run({}).code, 2);
  const Result absent = run({path("absent"), "x"});
  EXPECT_EQ(absent.code, 1);
  EXPECT_TRUE(absent.err.starts_with("embed: ")) << absent.err;
  EXPECT_NE(absent.err.find("absent"), std::string::npos) << absent.err;
}

}  // namespace
}  // namespace rookery
