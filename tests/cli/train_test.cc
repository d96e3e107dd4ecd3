// Training as its users meet it: what a run leaves behind when it ends, is stopped, or is killed.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "core/random.h"
#include "program_test.h"

namespace rookery {
namespace {

class TrainProgram : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    std::ofstream text(path("text.txt"));
    for (int i = 0; i < 4000; ++i)
      text << "line " << i * 7919 % 1009 << " of a text that repeats itself\n";
  }

  std::vector<std::string> small_run(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {
        "train",   "--data", path("text.txt"), "-o", path("run"), "--layers", "2",
        "--width", "32",     "--context",      "32", "--batch",   "2",        "--threads",
        "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  pid_t start_quietly(const std::vector<std::string>& arguments) const {
    const int in = open_file("text.txt", O_RDONLY), out = create("stdout"), err = create("stderr");
    const pid_t child = start(arguments, in, out, err);
    for (const int descriptor : {in, out, err}) ::close(descriptor);
    return child;
  }

  // Steps that the run has reported; whole lines only.
  int64_t reported_steps() const {
    std::ifstream metrics(path("run/metrics.jsonl"));
    int64_t step = 0;
    for (std::string line; std::getline(metrics, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_discarded()) step = json.at("step");
    }
    return step;
  }
  int64_t newest_checkpoint() const {
    int64_t newest = 0;
    for (const auto& entry : fs::directory_iterator(path("run"))) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("checkpoint-") && name.ends_with(".safetensors")) {
        newest = std::max<int64_t>(newest, std::stoll(name.substr(11)));
      }
    }
    return newest;
  }
  // Waits until the run has reported this step; false if the program ends before.
  bool wait_for_step(pid_t child, int64_t step) const {
    for (int i = 0; i < 3000; ++i) {
      if (reported_steps() >= step) return true;
      if (::waitpid(child, nullptr, WNOHANG) == child) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
};

TEST_F(TrainProgram, ARunLeavesAModelCheckpointsAndMetrics) {
  const Json summary = json_of(small_run({"--steps", "30", "--checkpoint-every", "10", "--keep",
                                          "2", "--validate-every", "15", "--json"}));
  EXPECT_TRUE(summary.at("finished"));
  EXPECT_EQ(summary.at("step"), 30);
  EXPECT_EQ(summary.at("tokens_seen"), 30 * 64);
  EXPECT_LT(summary.at("validation_bits_per_byte"), 8.0);
  EXPECT_EQ(reported_steps(), 30);
  int64_t checkpoints = 0, events = 0;
  for (const auto& entry : fs::directory_iterator(path("run"))) {
    const std::string name = entry.path().filename().string();
    checkpoints += name.starts_with("checkpoint-");
    events += name.starts_with("events.out.tfevents.");
  }
  EXPECT_EQ(checkpoints, 2);
  EXPECT_EQ(events, 1);
  EXPECT_TRUE(fs::exists(path("run/model.safetensors")));
  EXPECT_EQ(run({"generate", path("run"), "-p", "line ", "-n", "5"}).code, 0);
  // A second run does not go over the first.
  expect_refused(small_run({"--steps", "30"}), 1, "holds a run already");
  expect_refused({"train", "--resume", path("run"), "--batch", "4"}, 2, "--batch cannot be given");
}

// kill -9 at random moments: what is lost is at most the steps since the last checkpoint, and the
// run goes on.
TEST_F(TrainProgram, KilledRunsLoseNoMoreThanTheStepsSinceTheLastCheckpoint) {
  constexpr int64_t kEvery = 5;
  const auto first = small_run({"--steps", "1000000", "--checkpoint-every", std::to_string(kEvery),
                                "--keep", "2", "--validate-every", "0"});
  Random random(static_cast<uint64_t>(::getpid()));
  for (int round = 0; round < 8; ++round) {
    const int64_t before = round == 0 ? 0 : newest_checkpoint();
    const pid_t child = start_quietly(
        round == 0 ? first
                   : std::vector<std::string>{"train", "--resume", path("run"), "--threads", "1"});
    ASSERT_TRUE(wait_for_step(child, before + kEvery + 1)) << read_text_file(path("stderr"));
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(200000)));
    ::kill(child, SIGKILL);
    EXPECT_EQ(wait_for(child), -SIGKILL);
    EXPECT_GE(newest_checkpoint(), reported_steps() - kEvery) << "round " << round;
    EXPECT_GT(newest_checkpoint(), before);
    EXPECT_EQ(run({"info", path("run")}).code, 0);
  }
}

TEST_F(TrainProgram, SignalsSaveAndEnd) {
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove_all(path("run"));
    const pid_t child = start_quietly(
        small_run({"--steps", "1000000", "--checkpoint-every", "0", "--validate-every", "0"}));
    ASSERT_TRUE(wait_for_step(child, 3)) << read_text_file(path("stderr"));
    ::kill(child, signal);
    EXPECT_EQ(wait_for(child), 0);
    EXPECT_EQ(newest_checkpoint(), reported_steps());
    EXPECT_NE(read_text_file(path("stdout")).find("--resume"), std::string::npos);
  }
}

// The program, stopped and resumed, ends with the very bytes of one that ran through.
TEST_F(TrainProgram, ResumesBitForBit) {
  ASSERT_EQ(run(small_run({"--steps", "12", "--dropout", "0.1"})).code, 0);
  const std::string straight = read_text_file(path("run/model.safetensors"));
  fs::remove_all(path("run"));
  ASSERT_EQ(run(small_run({"--steps", "12", "--dropout", "0.1", "--checkpoint-every", "5"})).code,
            0);
  fs::remove(path("run/model.safetensors"));
  fs::remove(path("run/checkpoint-00000012.safetensors"));
  fs::remove(path("run/checkpoint-00000010.safetensors"));
  ASSERT_EQ(run({"train", "--resume", path("run"), "--threads", "1"}).code, 0);
  const std::string resumed = read_text_file(path("run/model.safetensors"));
  // The weights; the metadata before them names another habit of checkpoints.
  const size_t weights =
      4 * json_of({"info", path("run"), "--json"}).at("parameters").get<size_t>();
  ASSERT_GT(resumed.size(), weights);
  EXPECT_EQ(resumed.substr(resumed.size() - weights), straight.substr(straight.size() - weights));
}

TEST_F(TrainProgram, PeakMemoryIsWhatTheDryRunSaid) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const bool sanitized = true;  // a sanitizer's own memory is not the program's
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  const bool sanitized = true;
#else
  const bool sanitized = false;
#endif
#else
  const bool sanitized = false;
#endif
  for (const char* checkpointing : {"", "--gradient-checkpointing"}) {
    fs::remove_all(path("run"));
    std::vector<std::string> arguments = {
        "train", "--data", path("text.txt"), "-o", path("run"), "--layers", "6",         "--width",
        "256",   "--json", "--steps",        "2",  "--batch",   "16",       "--context", "256"};
    if (*checkpointing != 0) arguments.push_back(checkpointing);
    const double actual = json_of(arguments).at("peak_memory");
    arguments.push_back("--dry-run");
    const double predicted = json_of(arguments).at("memory").at("total");
    if (sanitized) continue;
    EXPECT_NEAR(actual / predicted, 1, 0.05) << checkpointing << " predicted " << predicted;
  }
}

TEST_F(TrainProgram, RefusesWhatCannotBe) {
  expect_refused(small_run({"--steps", "0"}), 2, "--steps");
  expect_refused({"train", "--data", path("text.txt"), "-o", path("run"), "--context", "0"}, 2,
                 "--context");
  expect_refused({"train", "--data", path("text.txt"), "-o", path("run"), "--context", "99999999"},
                 1, "smaller --context");
  expect_refused({"train", "--data", path("text.txt"), "--model", "x", "--layers", "2"}, 2,
                 "--layers");
  expect_refused(small_run({"--generation", "7"}), 1, "generation '7' is not supported");
  expect_refused({"train", "-o", path("run")}, 2, "--data");
  expect_refused({"train", "--data", path("missing.txt"), "-o", path("run")}, 1, "missing.txt");
  expect_refused({"train", "--resume", path("nowhere")}, 1, "nowhere");
}

}  // namespace
}  // namespace rookery
