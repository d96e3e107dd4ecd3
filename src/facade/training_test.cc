// Training through the facade: every option arrives, and a stopped run goes on as if it had not
// been.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "checking/files_for_tests.h"
#include "checkpoints/load.h"
#include "core/error.h"
#include "io/file.h"
#include "rookery/rookery.hpp"
#include "training/checkpoint.h"

namespace rookery {
namespace {

class FacadeTraining : public ::testing::Test {
 protected:
  FacadeTraining() {
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * i) + " of a small text\n";
    text_ = save(folder_, "text.txt", text);
  }

  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  TrainingOptions small() const {
    return {.data = {text_},
            .layers = 1,
            .width = 16,
            .steps = 12,
            .context = 16,
            .batch = 2,
            .checkpoint_every = 4,
            .device = "cpu",
            .threads = 2};
  }

  TemporaryFolder folder_;
  std::filesystem::path text_;
};

TEST_F(FacadeTraining, TrainsToTheLastStepAndTellsEach) {
  std::vector<TrainingProgress> told;
  const TrainingResult result = train(path("run"), small(), [&](const TrainingProgress& progress) {
    told.push_back(progress);
    return true;
  });
  ASSERT_EQ(told.size(), 12u);
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(told[i].step, i + 1);
    EXPECT_EQ(told[i].last_step, 12);
    EXPECT_GT(told[i].loss, 0);
    EXPECT_GT(told[i].gradient_norm, 0);
    EXPECT_GT(told[i].tokens_per_second, 0);
  }
  EXPECT_EQ(result.step, 12);
  EXPECT_EQ(result.tokens_seen, 12 * 16 * 2);
  EXPECT_TRUE(result.validation_loss.has_value());
  EXPECT_LT(result.mean_loss, told[0].loss) << "it learns";
  EXPECT_TRUE(std::filesystem::exists(result.checkpoint));
  EXPECT_EQ(result.model, path("run") / "model.safetensors");
  EXPECT_LT(LanguageModel::load(path("run")).evaluate("line 400 of a small text\n").nats_per_token,
            told[0].loss);
}

TEST_F(FacadeTraining, AStoppedRunGoesOnAsIfItHadNotBeen) {
  TrainingOptions options = small();
  const TrainingResult whole = train(path("whole"), options);
  const TrainingResult part = train(
      path("part"), options, [](const TrainingProgress& progress) { return progress.step < 5; });
  EXPECT_EQ(part.step, 5);
  EXPECT_EQ(part.last_step, 12);
  EXPECT_TRUE(part.model.empty());
  const TrainingResult rest = resume_training(path("part"), {.device = "cpu", .threads = 2});
  EXPECT_EQ(rest.step, 12);
  const LoadedModel a = load_model(whole.model.string(), MatrixType::kF32);
  const LoadedModel b = load_model(rest.model.string(), MatrixType::kF32);
  const auto parameters = a.model->parameters(), others = b.model->parameters();
  ASSERT_EQ(parameters.size(), others.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(
        std::memcmp(parameters[i].value.data, others[i].value.data, parameters[i].value.bytes()), 0)
        << parameters[i].spec.name;
  }
  // And further than was planned.
  EXPECT_EQ(resume_training(path("part"), {.steps = 14, .device = "cpu", .threads = 2}).step, 14);
}

TEST_F(FacadeTraining, EveryOptionArrives) {
  const auto other = save(folder_, "other.txt", std::string(200, 'x'));
  TrainingOptions options = small();
  options.validation_data = {other};
  options.tokenizer = "bytes";
  options.vocabulary = 260;
  options.accumulation = 2;
  options.learning_rate = 3e-3;
  options.final_learning_rate = 2e-3;
  options.warmup_steps = 1;
  options.weight_decay = 0.25;
  options.dropout = 0.125;
  options.seed = 9;
  options.validate_every = 6;
  options.dtype = "bf16";
  const TrainingResult result = train(path("run"), options);
  ThreadPool pool(2);
  const Resumed resumed = load_checkpoint(result.checkpoint, pool);
  const RunState& run = resumed.run;
  EXPECT_EQ(run.data_files, std::vector<std::string>{text_.string()});
  EXPECT_EQ(run.validation_files, std::vector<std::string>{other.string()});
  EXPECT_EQ(run.tokenizer, "bytes");
  EXPECT_EQ(run.checkpoint_every, 4);
  EXPECT_EQ(run.validate_every, 6);
  EXPECT_EQ(run.options.context, 16);
  EXPECT_EQ(run.options.batch, 2);
  EXPECT_EQ(run.options.accumulation, 2);
  EXPECT_EQ(run.options.products, DType::kBF16);
  EXPECT_EQ(run.options.dropout, 0.125);
  EXPECT_EQ(run.options.seed, 9u);
  EXPECT_EQ(run.options.schedule.kind, ScheduleKind::kCosine);
  EXPECT_EQ(run.options.schedule.rate, 3e-3);
  EXPECT_EQ(run.options.schedule.final_rate, 2e-3);
  EXPECT_EQ(run.options.schedule.warmup_steps, 1);
  EXPECT_EQ(run.options.schedule.total_steps, 12);
  EXPECT_EQ(run.options.optimizer.weight_decay, 0.25);
  const ModelConfig& config = resumed.trainer->model().config();
  EXPECT_EQ(config.generation, "4");
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.width, 16);
  EXPECT_EQ(config.vocabulary, 260);

  // From a model: its sizes, not those of a fresh one.
  options.model = result.model;
  options.layers = 5;
  options.vocabulary = 0;
  EXPECT_EQ(LanguageModel::load(train(path("tuned"), options).model).info().layers, 1);
}

TEST_F(FacadeTraining, TheLengthMayBeATime) {
  TrainingOptions options = small();
  options.minutes = 0.002;
  EXPECT_GE(train(path("run"), options).last_step, 10);
}

TEST_F(FacadeTraining, Errors) {
  EXPECT_THROW(train(path("run"), {}), Error);
  TrainingOptions options = small();
  options.dtype = "f16";
  EXPECT_THROW(train(path("run"), options), Error);
  options = small();
  options.context = 0;
  EXPECT_THROW(train(path("run"), options), Error);
  options = small();
  options.threads = -1;
  EXPECT_THROW(train(path("run"), options), Error);
  EXPECT_THROW(resume_training(path("absent")), Error);
  train(path("run"), small());
  EXPECT_THROW(train(path("run"), small()), Error) << "the folder holds a run";
}

}  // namespace
}  // namespace rookery
