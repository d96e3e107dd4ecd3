// Whole runs without the command line: what an observer hears, what is left in the folder, and that
// stopping, failing and going on change no bit of the result.
#include "training/run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "checking/files_for_tests.h"
#include "checkpoints/find.h"
#include "formats/tensor_source.h"
#include "io/file.h"
#include "training/windows.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLayers = 2, kWidth = 16, kSteps = 12;

class RunTest : public ::testing::Test {
 protected:
  RunTest() {
    std::ofstream text(path("text.txt"));
    for (int i = 0; i < 300; ++i) text << "line " << i * 7919 % 1009 << " of a text\n";
  }

  fs::path path(const char* name) const { return folder_.path() / name; }

  RunOptions options(const char* folder) const {
    RunOptions options;
    options.folder = path(folder);
    options.data.files = {path("text.txt").string()};
    options.fresh = {.layers = kLayers, .width = kWidth};
    options.training.context = 16;
    options.training.batch = 2;
    options.training.dropout = 0.1;
    options.training.schedule = {
        .rate = 1e-3, .final_rate = 1e-4, .warmup_steps = 50, .total_steps = kSteps};
    options.checkpoint_every = 0;
    options.validate_every = 0;
    options.validation_windows = 4;
    return options;
  }

  // A run that nobody stops; its model file.
  std::string straight() {
    TrainingRun run = TrainingRun::begin(options("straight"), pool_);
    return weights(run.train().model);
  }

  // The numbers of a model file, without its metadata: that names habits of checkpoints.
  static std::string weights(const fs::path& model) {
    std::string bytes;
    const TensorSource source = open_checkpoint(model);
    for (const StoredTensor& tensor : source.tensors) {
      bytes += tensor.name;
      bytes.append(static_cast<const char*>(tensor.data),
                   static_cast<size_t>(tensor.stored_bytes()));
    }
    return bytes;
  }

  std::vector<nlohmann::json> metrics(const char* folder) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(path(folder) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  std::vector<int64_t> checkpoint_steps(const char* folder) const {
    std::vector<int64_t> steps;
    for (const fs::path& file : list_checkpoints(path(folder))) {
      steps.push_back(step_of_checkpoint(file));
    }
    return steps;
  }

  static std::string error_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  ThreadPool pool_{1};
  TemporaryFolder folder_;
};

// Asks to stop once so many steps were done in all.
RunObserver stopping_after(int64_t steps) {
  auto done = std::make_shared<int64_t>(0);
  RunObserver observer;
  observer.on_step = [done](const RunStep& step) { *done = step.step; };
  observer.should_stop = [done, steps] { return *done >= steps; };
  return observer;
}

TEST_F(RunTest, AnObserverHearsOfEverything) {
  RunOptions options = this->options("run");
  options.checkpoint_every = 5;
  options.validate_every = 4;
  options.keep = 2;
  std::vector<std::string> heard;
  std::vector<RunStep> steps;
  RunObserver observer;
  observer.on_start = [&](const RunStart& start) {
    EXPECT_EQ(start.first_step, 0);
    EXPECT_EQ(start.last_step, kSteps);
    EXPECT_EQ(start.validation_batches, 2);
    EXPECT_EQ(start.model.config().width, kWidth);
    EXPECT_EQ(start.state.options.schedule.warmup_steps, kSteps / 10);
    heard.push_back("start");
  };
  observer.on_step = [&](const RunStep& step) {
    steps.push_back(step);
    heard.push_back("step " + std::to_string(step.step));
  };
  std::vector<RunValidation> validations;
  observer.on_validation = [&](const RunValidation& validation) {
    validations.push_back(validation);
    heard.push_back("validation " + std::to_string(validation.step));
  };
  observer.on_checkpoint = [&](const fs::path& file) {
    EXPECT_TRUE(fs::exists(file));
    heard.push_back("checkpoint " + std::to_string(step_of_checkpoint(file)));
  };
  TrainingRun run = TrainingRun::begin(options, pool_);
  EXPECT_FALSE(fs::exists(path("run"))) << "written before train()";
  const RunSummary summary = run.train(observer, 1e12);

  EXPECT_EQ(heard,
            (std::vector<std::string>{
                "start", "step 1", "step 2", "step 3", "step 4", "validation 4", "step 5",
                "checkpoint 5", "step 6", "step 7", "step 8", "validation 8", "step 9", "step 10",
                "checkpoint 10", "step 11", "step 12", "validation 12", "checkpoint 12"}));
  EXPECT_EQ(checkpoint_steps("run"), (std::vector<int64_t>{10, 12}));

  // One line of metrics for each step, with the numbers that the observer heard.
  const std::vector<nlohmann::json> lines = metrics("run");
  ASSERT_EQ(lines.size(), steps.size());
  double mean = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const RunStep& step = steps[i];
    mean = i == 0 ? step.result.loss : 0.95 * mean + 0.05 * step.result.loss;
    EXPECT_EQ(lines[i].at("step"), step.step);
    EXPECT_EQ(lines[i].at("loss"), step.result.loss);
    EXPECT_EQ(lines[i].at("gradient_norm"), step.result.gradient_norm);
    EXPECT_EQ(lines[i].at("tokens"), step.step * 32);
    EXPECT_GT(lines[i].at("matrix_share"), 0);
    EXPECT_DOUBLE_EQ(step.mean_loss, mean);
    // Tokens are bytes, but for the end of the text.
    ASSERT_TRUE(step.mean_bits_per_byte.has_value());
    EXPECT_NEAR(*step.mean_bits_per_byte, mean / std::log(2), 1e-2);
    EXPECT_GT(step.tokens_per_second, 0);
    EXPECT_GT(step.matmul_share.value_or(0), 0);
    EXPECT_EQ(lines[i].contains("validation_loss"), step.step % 4 == 0);
  }
  ASSERT_EQ(validations.size(), 3u);
  EXPECT_EQ(lines.back().at("validation_loss"), validations.back().loss);
  EXPECT_EQ(lines.back().at("validation_bits_per_byte"), validations.back().bits_per_byte.value());

  EXPECT_TRUE(summary.finished());
  EXPECT_TRUE(run.finished());
  EXPECT_EQ(summary.step, kSteps);
  EXPECT_EQ(summary.tokens_seen, kSteps * 32);
  EXPECT_EQ(summary.parameters,
            Model::planned(make_config("4", kLayers, kWidth, 256)).parameter_count());
  EXPECT_EQ(summary.loss, steps.back().result.loss);
  EXPECT_DOUBLE_EQ(summary.mean_loss, mean);
  EXPECT_EQ(summary.validation_loss, validations.back().loss);
  EXPECT_EQ(summary.checkpoint, checkpoint_path(path("run"), kSteps));
  EXPECT_EQ(summary.model, path("run") / "model.safetensors");
  EXPECT_TRUE(fs::exists(path("run") / "learning_curve.svg"));
}

TEST_F(RunTest, NoObserverAndNoRateAreNeeded) {
  TrainingRun run = TrainingRun::begin(options("run"), pool_);
  run.train();
  const std::vector<nlohmann::json> lines = metrics("run");
  ASSERT_EQ(lines.size(), static_cast<size_t>(kSteps));
  EXPECT_FALSE(lines.front().contains("matrix_share"));
}

TEST_F(RunTest, AStopSavesAndTheRunGoesOnBitForBit) {
  const std::string expected = straight();
  {
    TrainingRun run = TrainingRun::begin(options("run"), pool_);
    const RunSummary summary = run.train(stopping_after(5));
    EXPECT_EQ(summary.step, 5);
    EXPECT_FALSE(summary.finished());
    EXPECT_FALSE(run.finished());
    EXPECT_TRUE(summary.model.empty());
    EXPECT_FALSE(fs::exists(path("run") / "model.safetensors"));
  }
  EXPECT_EQ(checkpoint_steps("run"), (std::vector<int64_t>{5}));
  TrainingRun run = TrainingRun::resume(path("run"), {}, pool_);
  EXPECT_EQ(run.state().step, 5);
  int64_t first = 0;
  RunObserver observer;
  observer.on_start = [&](const RunStart& start) { first = start.first_step; };
  EXPECT_EQ(weights(run.train(observer).model), expected);
  EXPECT_EQ(first, 5);
  EXPECT_EQ(metrics("run").size(), static_cast<size_t>(kSteps));
}

TEST_F(RunTest, AStoppedRunGoesOnInPlace) {
  const std::string expected = straight();
  TrainingRun run = TrainingRun::begin(options("run"), pool_);
  EXPECT_EQ(run.train(stopping_after(3)).step, 3);
  EXPECT_EQ(run.train(stopping_after(7)).step, 7);
  EXPECT_EQ(weights(run.train().model), expected);
}

TEST_F(RunTest, AStopBeforeTheFirstStepSaves) {
  const std::string expected = straight();
  TrainingRun run = TrainingRun::begin(options("run"), pool_);
  EXPECT_EQ(run.train(stopping_after(0)).step, 0);
  EXPECT_EQ(checkpoint_steps("run"), (std::vector<int64_t>{0}));
  TrainingRun resumed = TrainingRun::resume(checkpoint_path(path("run"), 0), {}, pool_);
  EXPECT_EQ(weights(resumed.train().model), expected);
}

// Whatever an observer throws, and wherever: the run goes on from the last checkpoint.
TEST_F(RunTest, AFailingObserverLeavesTheLastCheckpointWhole) {
  const std::string expected = straight();
  struct Case {
    const char* name;
    int64_t saved;  // the newest checkpoint
    std::function<void(RunObserver&)> fail;
  };
  const auto fail = [] { throw std::runtime_error("the observer is gone"); };
  const Case cases[] = {{"step", 6,
                         [&](RunObserver& o) {
                           o.on_step = [&](const RunStep& s) {
                             if (s.step == 8) fail();
                           };
                         }},
                        {"validation", 6,
                         [&](RunObserver& o) {
                           o.on_validation = [&](const RunValidation& v) {
                             if (v.step == 7) fail();
                           };
                         }},
                        {"checkpoint", 9,
                         [&](RunObserver& o) {
                           o.on_checkpoint = [&](const fs::path& file) {
                             if (step_of_checkpoint(file) == 9) fail();
                           };
                         }},
                        {"stop", 3, [&](RunObserver& o) {
                           auto asked = std::make_shared<int>(0);
                           o.should_stop = [&fail, asked] {
                             if (++*asked > 5) fail();
                             return false;
                           };
                         }}};
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    RunOptions options = this->options(test.name);
    options.checkpoint_every = 3;
    options.validate_every = 7;
    {
      TrainingRun run = TrainingRun::begin(options, pool_);
      RunObserver observer;
      test.fail(observer);
      EXPECT_THROW(run.train(observer), std::runtime_error);
    }
    ASSERT_FALSE(checkpoint_steps(test.name).empty());
    EXPECT_EQ(checkpoint_steps(test.name).back(), test.saved);
    TrainingRun run = TrainingRun::resume(path(test.name), {}, pool_);
    EXPECT_EQ(weights(run.train().model), expected);
  }
}

TEST_F(RunTest, AFinishedRunCanBeMadeLonger) {
  TrainingRun::begin(options("run"), pool_).train();
  TrainingRun same = TrainingRun::resume(path("run"), {}, pool_);
  EXPECT_TRUE(same.finished());
  TrainingRun longer = TrainingRun::resume(path("run"), {.total_steps = kSteps + 3}, pool_);
  EXPECT_FALSE(longer.finished());
  EXPECT_EQ(longer.train().step, kSteps + 3);
}

TEST_F(RunTest, AFolderWithARunIsNotGoneOver) {
  TrainingRun::begin(options("run"), pool_).train(stopping_after(1));
  EXPECT_NE(
      error_of([&] { TrainingRun::begin(options("run"), pool_); }).find("holds a run already"),
      std::string::npos);
  fs::create_directory(path("empty"));
  EXPECT_NE(
      error_of([&] { TrainingRun::resume(path("empty"), {}, pool_); }).find("holds no checkpoint"),
      std::string::npos);
}

TEST_F(RunTest, OtherDataIsRefused) {
  TrainingRun::begin(options("run"), pool_).train(stopping_after(1));
  std::ofstream(path("other.txt")) << std::string(3000, 'x');
  const ResumeOptions other{.data_files = {path("other.txt").string()}};
  EXPECT_NE(error_of([&] {
              TrainingRun::resume(path("run"), other, pool_);
            }).find("not the one this run began with"),
            std::string::npos);
  // The same text elsewhere is no other data.
  fs::rename(path("text.txt"), path("moved.txt"));
  const ResumeOptions moved{.data_files = {path("moved.txt").string()}};
  EXPECT_EQ(TrainingRun::resume(path("run"), moved, pool_).train().step, kSteps);
}

TEST_F(RunTest, ValidatesOnOtherDataOrNotAtAll) {
  int64_t batches = -1;
  RunObserver observer;
  observer.on_start = [&](const RunStart& start) { batches = start.validation_batches; };
  RunOptions without = options("without");
  without.training.validation_fraction = 0;
  EXPECT_EQ(TrainingRun::begin(without, pool_).train(observer).validation_loss, 0);
  EXPECT_EQ(batches, 0);
  std::ofstream(path("other.txt")) << std::string(3000, 'x');
  RunOptions apart = options("apart");
  apart.data.validation_files = {path("other.txt").string()};
  TrainingRun run = TrainingRun::begin(apart, pool_);
  EXPECT_EQ(run.state().options.validation_fraction, 0);
  EXPECT_GT(run.train(observer).validation_loss, 0);
  EXPECT_EQ(batches, 2);
}

TEST_F(RunTest, StartsFromAModelWithItsTokenizer) {
  const fs::path model = TrainingRun::begin(options("first"), pool_).train().model;
  RunOptions more = options("second");
  more.model = model.string();
  more.fresh = {.layers = 7, .width = 64};  // not looked at
  TrainingRun run = TrainingRun::begin(more, pool_);
  EXPECT_EQ(run.model().config().width, kWidth);
  EXPECT_EQ(run.state().tokenizer, "bytes");
  EXPECT_EQ(run.state().step, 0);
  EXPECT_LT(run.train().loss, std::log(256.0));
}

TEST_F(RunTest, DocumentsStartEmptyWhereTheTextHasSome) {
  EXPECT_FALSE(TrainingRun::begin(options("none"), pool_).state().options.reset_documents);
  std::ofstream(path("text.txt"), std::ios::app)
      << "<|endoftext|>\nanother document of many words, so that a window of it fits\n";
  EXPECT_TRUE(TrainingRun::begin(options("some"), pool_).state().options.reset_documents);
  RunOptions off = options("off");
  off.reset_documents = false;
  EXPECT_FALSE(TrainingRun::begin(off, pool_).state().options.reset_documents);
  RunOptions magic = options("magic");
  magic.training.order = WindowOrder::kMagicPrime;
  const TrainOptions training = TrainingRun::begin(magic, pool_).state().options;
  EXPECT_FALSE(training.reset_documents);
  EXPECT_GT(training.magic_prime, 0);
}

TEST_F(RunTest, MinutesBecomeSteps) {
  RunOptions options = this->options("run");
  options.minutes = 1e-9;
  const TrainOptions training = TrainingRun::begin(options, pool_).state().options;
  EXPECT_EQ(training.schedule.total_steps, 10);
  EXPECT_EQ(training.schedule.warmup_steps, 1);
}

TEST_F(RunTest, APlanNeedsNoFolder) {
  const RunPlan plan = plan_run(options(""), pool_);
  const double matrices = 2.0 * 256 * kWidth + 2.0 * kLayers * 13 * kWidth * kWidth;
  EXPECT_EQ(plan.parameters,
            Model::planned(make_config("4", kLayers, kWidth, 256)).parameter_count());
  EXPECT_EQ(plan.memory.weights, 4 * plan.parameters);
  EXPECT_EQ(plan.memory.moments, 2 * plan.memory.gradients);
  EXPECT_DOUBLE_EQ(plan.flops_per_token, 3 * matrices);
  EXPECT_DOUBLE_EQ(plan.flops(), 3 * matrices * 32 * kSteps);
  EXPECT_EQ(plan.total_bytes(), plan.memory.total() + plan.program);
  EXPECT_EQ(plan.options.schedule.warmup_steps, kSteps / 10);
  RunOptions nothing = options("");
  nothing.data = {};
  EXPECT_EQ(plan_run(nothing, pool_).config.vocabulary, 256);
}

TEST_F(RunTest, RefusesWhatDoesNotFit) {
  const auto refused = [&](const char* expected, const std::function<void(RunOptions&)>& change) {
    RunOptions options = this->options("run");
    change(options);
    const std::string error = error_of([&] { TrainingRun::begin(options, pool_); });
    EXPECT_NE(error.find(expected), std::string::npos) << error;
    EXPECT_FALSE(fs::exists(path("run")));
  };
  refused("no data", [](RunOptions& o) { o.data.files.clear(); });
  refused("no folder", [](RunOptions& o) { o.folder.clear(); });
  refused("less than the 256 tokens", [](RunOptions& o) { o.fresh.vocabulary = 255; });
  refused("generation '3'", [](RunOptions& o) { o.fresh.generation = "3"; });
  refused("smaller --context", [](RunOptions& o) { o.training.context = 1 << 20; });
}

// The windows of a run, as a file: what the loader gives the steps.
TEST_F(RunTest, WindowsAreThoseOfTheSteps) {
  RunOptions options = this->options("run");
  options.training.schedule.warmup_steps = 0;
  const RunData data(options.data, choose_tokenizer(options.data, nullptr), pool_);
  std::vector<int64_t> heard;
  const auto written =
      write_windows(path("windows.bin"), data, options.training, [&](int64_t step) {
        heard.push_back(step);
        return true;
      });
  ASSERT_TRUE(written.has_value());
  EXPECT_EQ(heard.size(), static_cast<size_t>(kSteps));
  const std::string bytes = read_text_file(path("windows.bin"));
  ASSERT_EQ(bytes.size(), static_cast<size_t>(kSteps * 2 * 17 * 4));
  EXPECT_EQ(written->bytes, static_cast<int64_t>(bytes.size()));
  const auto* rows = reinterpret_cast<const int32_t*>(bytes.data());
  const Loader loader = data.loader(options.training, 256);
  EXPECT_EQ(written->windows_per_epoch, loader.windows_per_epoch());
  for (int64_t step = 0; step < kSteps; ++step) {
    const TrainingBatch batch = batches_of_step(loader, options.training, step).front();
    for (int64_t window = 0; window < 2; ++window, rows += 17) {
      for (int64_t i = 0; i < 16; ++i) {
        ASSERT_EQ(rows[i], batch.tokens[window * 16 + i]) << step << " " << window << " " << i;
        ASSERT_EQ(rows[i + 1], batch.targets[window * 16 + i]);
      }
    }
  }
  EXPECT_FALSE(write_windows(path("none.bin"), data, options.training,
                             [](int64_t step) { return step < 3; }));
  EXPECT_FALSE(fs::exists(path("none.bin")));
}

}  // namespace
}  // namespace rookery
