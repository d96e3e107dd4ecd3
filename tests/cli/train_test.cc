// Training as its users meet it: what a run leaves behind when it ends, is stopped, or is killed.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "checking/test_seed.h"
#include "core/random.h"
#include "formats/tensor_source.h"
#include "program_test.h"

namespace rookery {
namespace {

// A sanitizer's own memory is not the program's.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#else
constexpr bool kSanitized = false;
#endif

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
  const TestSeed seed;
  Random random(seed.value());
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

// Every flag of a step arrives in the run, and nothing of it changes when the run goes on.
TEST_F(TrainProgram, EveryFlagArrives) {
  ASSERT_EQ(run(small_run({"--steps",
                           "3",
                           "--accumulate",
                           "2",
                           "--dtype",
                           "bf16",
                           "--gradient-checkpointing",
                           "--reset-documents",
                           "on",
                           "--dropout",
                           "0.125",
                           "--l2wrap",
                           "0.25",
                           "--seed",
                           "99",
                           "--schedule",
                           "constant-exponential",
                           "--learning-rate",
                           "0.002",
                           "--final-learning-rate",
                           "0.0005",
                           "--warmup",
                           "9",
                           "--constant-steps",
                           "1",
                           "--beta1",
                           "0.8",
                           "--beta2",
                           "0.85",
                           "--adam-epsilon",
                           "1e-9",
                           "--weight-decay",
                           "0.03",
                           "--clip",
                           "0.7",
                           "--checkpoint-every",
                           "2",
                           "--keep",
                           "5",
                           "--validate-every",
                           "3",
                           "--validation-fraction",
                           "0.05",
                           "--order",
                           "magic-prime",
                           "--device",
                           "cpu"}))
                .code,
            0);
  const Json expected = {
      {"context", 32},
      {"batch", 2},
      {"accumulation", 2},
      {"products", "bf16"},
      {"gradient_checkpointing", true},
      {"reset_documents", true},
      {"dropout", 0.125},
      {"l2wrap", 0.25},
      {"seed", 99},
      {"validation_fraction", 0.05},
      {"schedule",
       {{"kind", "constant-exponential"},
        {"rate", 0.002},
        {"final_rate", 0.0005},
        {"warmup_steps", 0},  // at most a tenth of all
        {"total_steps", 3},
        {"constant_steps", 1}}},
      {"optimizer",
       {{"beta1", 0.8}, {"beta2", 0.85}, {"epsilon", 1e-9}, {"weight_decay", 0.03}, {"clip", 0.7}}},
      {"order", "magic-prime"}};
  const auto about = [&](const char* file) {
    return Json::parse(open_checkpoint(path(file)).metadata.at("rookery"));
  };
  Json options = about("run/checkpoint-00000003.safetensors").at("options");
  EXPECT_GT(options.at("magic_prime"), 0);
  options.erase("magic_prime");
  EXPECT_EQ(options, expected);
  ASSERT_EQ(run({"train", "--resume", path("run"), "--steps", "5", "--threads", "1"}).code, 0);
  const Json resumed = about("run/checkpoint-00000005.safetensors");
  options = resumed.at("options");
  EXPECT_EQ(options.at("schedule").at("total_steps"), 5);
  options["schedule"]["total_steps"] = 3;
  options.erase("magic_prime");
  EXPECT_EQ(options, expected);
  EXPECT_EQ(resumed.at("tokens_seen"), 5 * 2 * 2 * 32);
  EXPECT_EQ(resumed.at("checkpoint_every"), 2);
  EXPECT_EQ(resumed.at("keep"), 5);
  EXPECT_EQ(resumed.at("validate_every"), 3);
}

// A run that is made longer has, from there on, the rates of a run that was as long from the start.
TEST_F(TrainProgram, AResumedRunHasTheLearningRatesOfItsNewLength) {
  const auto rates = [&] {
    std::map<int64_t, double> all;
    std::ifstream metrics(path("run/metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);) {
      const Json json = Json::parse(line);
      if (json.contains("learning_rate")) all[json.at("step")] = json.at("learning_rate");
    }
    return all;
  };
  ASSERT_EQ(run(small_run({"--steps", "12", "--warmup", "0"})).code, 0);
  const std::map<int64_t, double> straight = rates();
  ASSERT_EQ(straight.size(), 12u);
  // The cosine of schedule.h, by hand; the first step is number 0 there.
  for (const auto& [step, rate] : straight) {
    const double x = static_cast<double>(step - 1) / 12;
    EXPECT_NEAR(rate, 1e-4 + (1e-3 - 1e-4) * (1 + std::cos(std::acos(-1) * x)) / 2, 1e-9) << step;
  }
  fs::remove_all(path("run"));
  ASSERT_EQ(run(small_run({"--steps", "6", "--warmup", "0"})).code, 0);
  ASSERT_EQ(run({"train", "--resume", path("run"), "--steps", "12", "--threads", "1"}).code, 0);
  const std::map<int64_t, double> resumed = rates();
  ASSERT_EQ(resumed.size(), 12u);
  for (int64_t step = 7; step <= 12; ++step) EXPECT_EQ(resumed.at(step), straight.at(step)) << step;
  EXPECT_LT(resumed.at(6), straight.at(6));
}

// From text to prepared data to a model: 20 steps, stopped and resumed, in both orders.
TEST_F(TrainProgram, PreparedDataTrainsAndResumesBitForBit) {
  for (int i = 0; i < 40; ++i) {
    std::ofstream(path("chat.jsonl"), std::ios::app)
        << R"({"messages":[{"role":"user","content":"Count to )" << i
        << R"("},{"role":"assistant","content":"One, two, and so on."}]})" << '\n';
  }
  ASSERT_EQ(run({"data", "prepare", path("text.txt"), path("chat.jsonl"), "--tokenizer", "bytes",
                 "-o", path("data")})
                .code,
            0);
  const Json info = json_of({"data", "info", path("data"), "--context", "32", "--json"});
  EXPECT_EQ(info.at("documents"), 41);
  EXPECT_LT(info.at("learned"), info.at("tokens"));
  for (const char* order : {"magic-prime", "shuffled"}) {
    fs::remove_all(path("run"));
    std::vector<std::string> arguments = small_run({"--steps", "20", "--order", order, "--json"});
    arguments[2] = path("data");
    const Json whole = json_of(arguments);
    // With a mask, bits per byte of the learned tokens are not known; of what is held out they are.
    EXPECT_FALSE(whole.contains("bits_per_byte"));
    const bool magic = std::string(order) == "magic-prime";
    EXPECT_EQ(whole.contains("validation_bits_per_byte"), !magic);
    const auto model = open_checkpoint(path("run/model.safetensors"));
    EXPECT_EQ(model.metadata.at("tokenizer"), "bytes");
    const Json options = Json::parse(model.metadata.at("rookery")).at("options");
    EXPECT_EQ(options.value("magic_prime", 0),
              magic ? info.at("epoch").at("magic_primes").at("32").get<int>() : 0);
    const std::string straight = read_text_file(path("run/model.safetensors"));
    fs::remove_all(path("run"));
    arguments.insert(arguments.end(), {"--checkpoint-every", "9"});
    ASSERT_EQ(run(arguments).code, 0);
    fs::remove(path("run/model.safetensors"));
    fs::remove(path("run/checkpoint-00000018.safetensors"));
    fs::remove(path("run/checkpoint-00000020.safetensors"));
    ASSERT_EQ(run({"train", "--resume", path("run"), "--threads", "1"}).code, 0);
    const std::string resumed = read_text_file(path("run/model.safetensors"));
    const size_t weights =
        4 * json_of({"info", path("run"), "--json"}).at("parameters").get<size_t>();
    EXPECT_EQ(resumed.substr(resumed.size() - weights), straight.substr(straight.size() - weights));
    EXPECT_EQ(run({"generate", path("run"), "-p", "line ", "-n", "5"}).code, 0);
  }
  // Another tokenizer, other data, or another mask, is another run.
  const std::string about = read_text_file(path("data.json"));
  std::string other = about;
  const size_t at = other.find("\"tokenizer\": \"bytes\"");
  ASSERT_NE(at, std::string::npos);
  other.replace(at, 20, "\"tokenizer\": \"other\"");
  std::ofstream(path("data.json")) << other;
  expect_refused({"train", "--resume", path("run"), "--steps", "30"}, 1, "was prepared with");
  std::ofstream(path("data.json")) << about;
  std::fstream(path("data.mask"), std::ios::in | std::ios::out | std::ios::binary).seekp(7).put(0);
  expect_refused({"train", "--resume", path("run"), "--steps", "30"}, 1, "not the one");
}

// Prepared data of another program: nothing says which tokenizer made it.
TEST_F(TrainProgram, DataWithoutADescriptionNeedsAVocabulary) {
  ASSERT_EQ(
      run({"data", "prepare", path("text.txt"), "--tokenizer", "bytes", "-o", path("data")}).code,
      0);
  fs::remove(path("data.json"));
  // The first token becomes 300.
  std::fstream(path("data.bin"), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(0)
      .write("\x2c\1", 2);
  std::vector<std::string> arguments = small_run({"--steps", "2", "--json"});
  arguments[2] = path("data.idx");
  expect_refused(arguments, 1, "--vocab");
  arguments.insert(arguments.end(), {"--vocab", "300"});
  expect_refused(arguments, 1, "token 0 of the data is 300");
  arguments.back() = "301";
  const Json summary = json_of(arguments);
  EXPECT_EQ(summary.at("finished"), true);
  EXPECT_FALSE(summary.contains("bits_per_byte"));
  EXPECT_FALSE(summary.contains("validation_bits_per_byte"));
  EXPECT_GT(summary.at("validation_loss"), 0);
  EXPECT_FALSE(open_checkpoint(path("run/model.safetensors")).metadata.contains("tokenizer"));
  EXPECT_EQ(json_of({"info", path("run"), "--json"}).at("vocabulary"), 301);
  ASSERT_EQ(run({"train", "--resume", path("run"), "--steps", "4", "--threads", "1"}).code, 0);
  // As bytes it does not fit that tokenizer's model.
  fs::remove_all(path("run"));
  arguments.resize(arguments.size() - 2);
  arguments.insert(arguments.end(), {"--tokenizer", "bytes"});
  expect_refused(arguments, 1, "token 0 of the data is 300");
}

TEST_F(TrainProgram, ValidatesOnOtherData) {
  std::ofstream(path("other.txt")) << std::string(5000, 'x');
  const Json apart = json_of(small_run(
      {"--steps", "2", "--json", "--validation-data", path("other.txt"), "--vocab", "260"}));
  EXPECT_GT(apart.at("validation_loss"), 0);
  EXPECT_EQ(json_of({"info", path("run"), "--json"}).at("vocabulary"), 260);
  ASSERT_EQ(run({"train", "--resume", path("run"), "--steps", "4", "--threads", "1"}).code, 0);
  fs::remove(path("other.txt"));
  expect_refused({"train", "--resume", path("run"), "--steps", "6"}, 1, "other.txt");
  // Continued from this model with its tokenizer, which its metadata names.
  std::vector<std::string> tuned = {
      "train",       "--data", path("text.txt"), "--model", path("run"), "-o", path("2"),
      "--steps",     "2",      "--context",      "32",      "--batch",   "2",  "--json",
      "--tokenizer", "bytes"};
  EXPECT_EQ(json_of(tuned).at("finished"), true);
}

// A file far larger than the memory that is used.
TEST_F(TrainProgram, PreparingTakesLittleMemory) {
  {
    std::ofstream large(path("large.txt"), std::ios::binary);
    std::string block;
    for (int i = 0; block.size() < 10 << 20; ++i) block += "line " + std::to_string(i) + " of it\n";
    for (int i = 0; i < 31; ++i) large << block;  // one document
  }
  ASSERT_GT(fs::file_size(path("large.txt")), 300u << 20);
  const auto prepare = [&](const char* input, const char* name) {
    return json_of({"data", "prepare", path(input), "--tokenizer", "bytes", "--threads", "2",
                    "--json", "-o", path(name)});
  };
  const Json large = prepare("large.txt", "large"), small = prepare("text.txt", "small");
  EXPECT_EQ(large.at("tokens"), fs::file_size(path("large.txt")) + 1);
  const double more = large.at("peak_memory").get<double>() - small.at("peak_memory").get<double>();
  RecordProperty("more_bytes", std::to_string(more));
  if (!kSanitized) {
    EXPECT_LT(more, 64 << 20);
  }
}

TEST_F(TrainProgram, PeakMemoryIsWhatTheDryRunSaid) {
  for (const char* checkpointing : {"", "--gradient-checkpointing"}) {
    fs::remove_all(path("run"));
    std::vector<std::string> arguments = {
        "train", "--data", path("text.txt"), "-o", path("run"), "--layers", "6",         "--width",
        "256",   "--json", "--steps",        "2",  "--batch",   "16",       "--context", "256"};
    if (*checkpointing != 0) arguments.push_back(checkpointing);
    const double actual = json_of(arguments).at("peak_memory");
    arguments.push_back("--dry-run");
    const double predicted = json_of(arguments).at("memory").at("total");
    if (kSanitized) continue;
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
  expect_refused(small_run({"--vocab", "255"}), 1, "--vocab 255");
  expect_refused(small_run({"--magic-prime", "101"}), 2, "--order");
  expect_refused(small_run({"--magic-prime", "101", "--order", "magic-prime"}), 1, "would serve");
  expect_refused(small_run({"--validation-data", "x", "--validation-fraction", "0.1"}), 2,
                 "--validation-");
  expect_refused({"train", "--data", path("chat.jsonl"), "-o", path("run")}, 1, "data prepare");
  expect_refused({"train", "--data", path("missing.txt"), "-o", path("run")}, 1, "missing.txt");
  expect_refused({"train", "--resume", path("nowhere")}, 1, "nowhere");
}

}  // namespace
}  // namespace rookery
