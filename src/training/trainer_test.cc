// Steps, checkpoints and resuming.

#include "training/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "core/cpu_info.h"
#include "io/file.h"
#include "checking/operator_test.h"
#include "formats/safetensors.h"
#include "checkpoints/find.h"
#include "inference/session.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("rookery-trainer-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
    const std::string line = "the rook and the crow sat in the old tree; ";
    for (int i = 0; i < 3000; ++i)
      text_.push_back(i % 500 == 499 ? 0 : static_cast<uint8_t>(line[i % line.size()]));
    options_.context = 24;
    options_.batch = 3;
    options_.schedule = {.kind = ScheduleKind::kCosine,
                         .rate = 3e-3,
                         .final_rate = 3e-4,
                         .warmup_steps = 3,
                         .total_steps = 40};
  }
  ~TrainerTest() override { std::filesystem::remove_all(folder_); }

  Trainer make_trainer(Device device = Device::kCpu) {
    return Trainer(Model::initialised(make_config("4", 2, 32, 256), {.seed = options_.seed}, pool_),
                   options_, pool_, device);
  }
  Loader loader() const {
    return Loader(text_, {options_.context, options_.seed, options_.reset_documents});
  }
  static std::vector<float> weights(const Trainer& trainer) {
    std::vector<float> all;
    for (size_t i = 0; i < trainer.model().parameters().size(); ++i) {
      for (const TensorView& view : {static_cast<TensorView>(trainer.model().parameters()[i].value),
                                     trainer.optimizer().m(i), trainer.optimizer().v(i)}) {
        const size_t before = all.size();
        all.resize(before + view.count());
        copy_bytes(all.data() + before, view.data, view.bytes());
      }
    }
    return all;
  }

  ThreadPool pool_{2};
  std::filesystem::path folder_;
  std::vector<uint8_t> text_;
  TrainOptions options_;
};

TEST_F(TrainerTest, Learns) {
  Trainer trainer = make_trainer();
  const Loader data = loader();
  const double first = trainer.step(data).loss;
  EXPECT_NEAR(first, std::log(256.0), 0.2);
  StepResult last;
  while (trainer.steps_done() < 40) last = trainer.step(data);
  EXPECT_LT(last.loss, 2.6);
  EXPECT_GT(last.gradient_norm, 0);
}

TEST_F(TrainerTest, AccumulationIsALargerBatch) {
  options_.batch = 4;
  Trainer whole = make_trainer();
  options_.batch = 1;
  options_.accumulation = 4;
  Trainer parts = make_trainer();
  for (int i = 0; i < 3; ++i) {
    const StepResult a = whole.step(loader()), b = parts.step(loader());
    EXPECT_NEAR(a.loss, b.loss, 1e-5);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-5 * a.gradient_norm);
  }
}

TEST_F(TrainerTest, ADocumentResetIsASequenceOfItsOwn) {
  options_.reset_documents = true;
  TrainingBatch cut;
  loader().append_at(490, cut);  // a 0 stands at 499
  ASSERT_EQ(cut.offsets.size(), 3u);
  TrainingBatch first{{cut.tokens.begin(), cut.tokens.begin() + 9},
                      {cut.targets.begin(), cut.targets.begin() + 9},
                      {0, 9}};
  TrainingBatch second{{cut.tokens.begin() + 9, cut.tokens.end()},
                       {cut.targets.begin() + 9, cut.targets.end()},
                       {0, 15}};
  Trainer trainer = make_trainer();
  while (trainer.steps_done() < 10) trainer.step(loader());
  const double apart =
      (9 * trainer.evaluate(std::span(&first, 1)) + 15 * trainer.evaluate(std::span(&second, 1))) /
      24;
  EXPECT_NEAR(trainer.evaluate(std::span(&cut, 1)), apart, 1e-5);
}

TEST_F(TrainerTest, MaskedTokensTakeNoPart) {
  TrainingBatch batch;
  loader().append(0, batch);
  for (size_t i = 10; i < batch.targets.size(); ++i) batch.targets[i] = -1;
  TrainingBatch shorter{{batch.tokens.begin(), batch.tokens.begin() + 10},
                        {batch.targets.begin(), batch.targets.begin() + 10},
                        {0, 10}};
  Trainer a = make_trainer(), b = make_trainer();
  const StepResult masked = a.step(std::span(&batch, 1)), cut = b.step(std::span(&shorter, 1));
  EXPECT_NEAR(masked.loss, cut.loss, 1e-6);
  EXPECT_NEAR(masked.gradient_norm, cut.gradient_norm, 1e-6 * cut.gradient_norm);
}

// The mean over a step's targets, by hand: micro-batches with few targets count for as few.
TEST_F(TrainerTest, TheLossIsTheMeanOfAllTargetsThatAreNotMasked) {
  std::vector<TrainingBatch> batches(3);
  for (int64_t i = 0; i < 3; ++i) loader().append(i, batches[i]);
  for (size_t i = 0; i < 24; ++i) {
    if (i >= 5) batches[0].targets[i] = -1;
    batches[1].targets[i] = -1;  // nothing at all
    if (i % 3 == 0) batches[2].targets[i] = -1;
  }
  options_.batch = 1;
  Trainer whole = make_trainer(), other = make_trainer();
  double sum = 0;
  int64_t targets = 0;
  for (const TrainingBatch& batch : batches) {
    const auto count =
        std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t t) { return t >= 0; });
    sum += whole.evaluate(std::span(&batch, 1)) * static_cast<double>(count);
    targets += count;
  }
  ASSERT_EQ(targets, 5 + 16);
  EXPECT_NEAR(whole.evaluate(batches), sum / 21, 1e-6);
  const StepResult result = whole.step(batches);
  EXPECT_EQ(result.targets, 21);
  EXPECT_NEAR(result.loss, sum / 21, 1e-6);
  // The same targets in one micro-batch make the same step, L2Wrap included.
  TrainingBatch together{{}, {}, {0}};
  for (const TrainingBatch& batch : batches) {
    together.tokens.insert(together.tokens.end(), batch.tokens.begin(), batch.tokens.end());
    together.targets.insert(together.targets.end(), batch.targets.begin(), batch.targets.end());
    together.offsets.push_back(together.offsets.back() + 24);
  }
  options_.batch = 3;
  Trainer at_once = make_trainer();
  const StepResult same = at_once.step(std::span(&together, 1));
  EXPECT_NEAR(same.loss, result.loss, 1e-6);
  EXPECT_NEAR(same.gradient_norm, result.gradient_norm, 1e-5 * result.gradient_norm);
}

TEST_F(TrainerTest, AStepWithoutTargetsChangesNothing) {
  options_.optimizer.weight_decay = 0.1;
  Trainer trainer = make_trainer();
  trainer.step(loader());  // momentum that would go on
  const std::vector<float> before = weights(trainer);
  TrainingBatch batch;
  loader().append(0, batch);
  batch.targets.assign(batch.targets.size(), -1);
  const StepResult result = trainer.step(std::span(&batch, 1));
  EXPECT_EQ(result.targets, 0);
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(trainer.steps_done(), 2);
  EXPECT_EQ(weights(trainer), before);
  EXPECT_EQ(trainer.evaluate(std::span(&batch, 1)), 0);
  EXPECT_TRUE(std::isfinite(trainer.step(loader()).loss));
}

// Steps that leave the weights as they are, so that losses differ by their dropout masks alone.
class MaskTest : public TrainerTest {
 protected:
  MaskTest() {
    options_.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-30};
    options_.dropout = 0.3;
    options_.batch = 1;
    loader().append(0, batch_);
  }
  // Fresh weights would hide the masks: what they drop is 0.
  Trainer make_random_trainer() {
    return Trainer(Model::initialised(make_config("4", 2, 32, 256), {.scheme = "random"}, pool_),
                   options_, pool_);
  }
  // The losses of `steps` steps of `micro_batches` times the same batch.
  std::vector<double> losses(int steps, size_t micro_batches = 1) {
    Trainer trainer = make_random_trainer();
    const std::vector<TrainingBatch> batches(micro_batches, batch_);
    std::vector<double> all;
    for (int i = 0; i < steps; ++i) all.push_back(trainer.step(batches).loss);
    return all;
  }
  TrainingBatch batch_;
};

TEST_F(MaskTest, EveryStepMicroBatchAndSeedHasItsOwn) {
  const std::vector<double> one = losses(4);
  EXPECT_EQ(losses(4), one);
  for (size_t i = 0; i < one.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_GT(std::abs(one[i] - one[j]), 1e-4) << i << ' ' << j;
  }
  // Micro-batches are numbered through the run: two steps of two have the masks of four of one.
  const std::vector<double> two = losses(2, 2);
  EXPECT_NEAR(two[0], (one[0] + one[1]) / 2, 1e-6);
  EXPECT_NEAR(two[1], (one[2] + one[3]) / 2, 1e-6);
  options_.seed = 2;
  EXPECT_GT(std::abs(losses(1)[0] - one[0]), 1e-4);
  options_.dropout = 0;
  const std::vector<double> none = losses(2);
  EXPECT_EQ(none[0], none[1]);
}

// The loss by hand, from the logits of a session that knows no training.
TEST_F(MaskTest, EvaluationHasNeitherDropoutNorL2Wrap) {
  options_.l2wrap = 10;
  batch_.targets[3] = batch_.targets[7] = -1;
  Trainer trainer = make_random_trainer();
  trainer.step(std::span(&batch_, 1));
  Session session(trainer.model(), pool_, true);
  const std::vector<float> logits = session.feed_all(batch_.tokens);
  double nats = 0;
  int64_t targets = 0;
  for (size_t t = 0; t < batch_.targets.size(); ++t) {
    if (batch_.targets[t] < 0) continue;
    double sum = 0;
    for (size_t j = 0; j < 256; ++j) sum += std::exp(static_cast<double>(logits[t * 256 + j]));
    nats += std::log(sum) - logits[t * 256 + batch_.targets[t]];
    ++targets;
  }
  EXPECT_NEAR(trainer.evaluate(std::span(&batch_, 1)), nats / static_cast<double>(targets), 1e-6);
}

TEST_F(TrainerTest, EvaluationLeavesTheRunAsItIs) {
  options_.dropout = 0.2;
  options_.accumulation = 2;
  Trainer straight = make_trainer(), interrupted = make_trainer();
  TrainingBatch other;
  loader().append(77, other);
  for (int i = 0; i < 3; ++i) {
    straight.step(loader());
    interrupted.step(loader());
    interrupted.evaluate(std::span(&other, 1));
  }
  EXPECT_EQ(weights(interrupted), weights(straight));
}

TEST_F(TrainerTest, GradientCheckpointingTakesLessMemoryForTheSameBits) {
  options_.context = 64;
  options_.dropout = 0.2;
  std::vector<float> kept;
  int64_t kept_bytes = 0;
  for (const bool checkpointing : {false, true}) {
    options_.gradient_checkpointing = checkpointing;
    Trainer trainer = make_trainer();
    for (int i = 0; i < 3; ++i) trainer.step(loader());
    const int64_t bytes = trainer.context().arena->peak();
    if (!checkpointing) {
      kept = weights(trainer);
      kept_bytes = bytes;
      continue;
    }
    EXPECT_EQ(weights(trainer), kept);
    EXPECT_LT(static_cast<double>(bytes), 0.75 * static_cast<double>(kept_bytes));
  }
}

TEST_F(TrainerTest, L2WrapChangesTheGradientAndNotTheLoss) {
  options_.l2wrap = 0;
  Trainer without = make_trainer();
  options_.l2wrap = 10;
  Trainer with = make_trainer();
  const StepResult a = without.step(loader()), b = with.step(loader());
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_GT(std::abs(a.gradient_norm - b.gradient_norm), 1e-3 * a.gradient_norm);
}

// The learning rate that a step reports, and that moves the weights, is its own: the first step
// moves each weight by the rate, as Adam's bias correction has it.
TEST_F(TrainerTest, EachStepHasItsLearningRate) {
  Trainer trainer = make_trainer();
  std::vector<std::vector<double>> before;
  for (const Parameter& p : trainer.model().parameters()) before.push_back(elements(p.value));
  EXPECT_EQ(trainer.step(loader()).learning_rate, learning_rate(options_.schedule, 0));
  for (size_t k = 0; k < before.size(); ++k) {
    const Parameter& p = trainer.model().parameters()[k];
    const auto multiple = static_cast<double>(p.spec.group.rate_multiplier);
    double most = 0;
    const std::vector<double> after = elements(p.value);
    for (size_t i = 0; i < after.size(); ++i) {
      most = std::max(most, std::abs(after[i] - before[k][i]));
    }
    const double rate = multiple * learning_rate(options_.schedule, 0);
    if (most == 0) continue;  // nothing depends on it yet
    EXPECT_NEAR(most, rate, 0.01 * rate) << p.spec.name;
  }
  for (int64_t i = 1; i < 8; ++i) {
    EXPECT_EQ(trainer.step(loader()).learning_rate, learning_rate(options_.schedule, i)) << i;
  }
  ScheduleOptions longer = options_.schedule;
  longer.total_steps = 100;
  trainer.set_schedule(longer);
  EXPECT_EQ(trainer.step(loader()).learning_rate, learning_rate(longer, 8));
}

// Products in bfloat16: the masters stay float32 and move by less than a bfloat16 can hold, and the
// copies that products read are the masters rounded after each step.
TEST_F(TrainerTest, CopiesFollowTheirMasters) {
  Trainer wide = make_trainer();
  options_.products = DType::kBF16;
  Trainer narrow = make_trainer();
  for (int i = 0; i < 3; ++i) {
    const StepResult a = wide.step(loader()), b = narrow.step(loader());
    EXPECT_NEAR(a.loss, b.loss, 0.02);
    EXPECT_TRUE(i == 0 || a.loss != b.loss);
  }
  int copies = 0;
  for (const Parameter& p : narrow.model().parameters()) {
    if (!p.low) continue;
    ++copies;
    const auto* master = p.value.as<float>();
    for (int64_t i = 0; i < p.value.count(); ++i) {
      ASSERT_EQ(p.low.as<BFloat16>()[i].bits, to_bfloat16(master[i]).bits) << p.spec.name;
    }
  }
  EXPECT_EQ(copies, 2 * 7 + 1);  // seven matrices of each layer, and the head; none is looked up
}

TEST_F(TrainerTest, AStepTakesTheNextWindowsOfTheOrder) {
  options_.accumulation = 2;
  const Loader data = loader();
  for (const int64_t step : {0, 1, 7}) {
    const std::vector<TrainingBatch> batches = batches_of_step(data, options_, step);
    ASSERT_EQ(batches.size(), 2u);
    for (int64_t i = 0; i < 2; ++i) {
      TrainingBatch expected;
      for (int64_t j = 0; j < 3; ++j) data.append(6 * step + 3 * i + j, expected);
      EXPECT_EQ(batches[i].tokens, expected.tokens);
      EXPECT_EQ(batches[i].targets, expected.targets);
      EXPECT_EQ(batches[i].offsets, expected.offsets);
    }
  }
  // And a trainer's step is that of its number.
  Trainer by_loader = make_trainer(), by_hand = make_trainer();
  for (int64_t step = 0; step < 3; ++step) {
    by_loader.step(data);
    by_hand.step(batches_of_step(data, options_, step));
  }
  EXPECT_EQ(weights(by_loader), weights(by_hand));
}

TEST_F(TrainerTest, StopsBeforeNumbersThatAreNone) {
  options_.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e30, .total_steps = 40};
  options_.optimizer.clip = 0;
  Trainer trainer = make_trainer();
  try {
    for (int i = 0; i < 10; ++i) trainer.step(loader());
    ADD_FAILURE() << "ten steps at a rate of 1e30";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the loss is "), std::string::npos) << error.what();
  }
}

// 2N steps = N, a checkpoint, N more: to the bit, with everything on that draws random numbers or
// recomputes.
TEST_F(TrainerTest, ResumesBitForBit) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    options_.products = products;
    options_.dropout = 0.2;
    options_.accumulation = 2;
    options_.gradient_checkpointing = products == DType::kBF16;
    options_.reset_documents = true;
    options_.optimizer.weight_decay = 0.1;
    Trainer straight = make_trainer(), half = make_trainer();
    const Loader data = loader();
    for (int i = 0; i < 10; ++i) straight.step(data);
    for (int i = 0; i < 5; ++i) half.step(data);
    const auto path =
        save_checkpoint(folder_, half, {.options = options_, .step = 5, .tokens_seen = 5 * 144});
    Resumed resumed = load_checkpoint(path, pool_);
    EXPECT_EQ(resumed.run.step, 5);
    EXPECT_EQ(resumed.run.tokens_seen, 5 * 144);
    EXPECT_EQ(to_json(resumed.run.options), to_json(options_));
    for (int i = 0; i < 5; ++i) resumed.trainer->step(data);
    EXPECT_EQ(weights(*resumed.trainer), weights(straight));
    EXPECT_NE(weights(half), weights(straight));
  }
}

// Every field, none of which has its default, by name: what is not saved comes back as its default.
// A new field does not compile until it is added here.
TEST_F(TrainerTest, ACheckpointForgetsNothing) {
  options_ = {
      .context = 24,
      .batch = 3,
      .accumulation = 2,
      .products = DType::kBF16,
      .gradient_checkpointing = true,
      .reset_documents = true,
      .order = WindowOrder::kMagicPrime,
      .magic_prime = 113,
      .dropout = 0.125,
      .l2wrap = 0.25,
      .seed = 12345678901234567890u,
      .validation_fraction = 0.375,
      .schedule = {.kind = ScheduleKind::kConstantThenExponential,
                   .rate = 0.0011,
                   .final_rate = 0.0007,
                   .warmup_steps = 3,
                   .total_steps = 44,
                   .constant_steps = 5},
      .optimizer = {
          .beta1 = 0.83, .beta2 = 0.87, .epsilon = 0.031, .weight_decay = 0.043, .clip = 0.57}};
  const RunState state = {.options = options_,
                          .step = 4,
                          .tokens_seen = 99,
                          .tokenizer = "space",
                          .tokenizer_definition = "space \"600\"\n",
                          .data_files = {"a", "b"},
                          .data_hash = 0xfedcba9876543210u,
                          .validation_files = {"c"},
                          .checkpoint_every = 6,
                          .keep = 7,
                          .validate_every = 8,
                          .validation_loss = 1.0 / 3};
  Trainer straight = make_trainer(), half = make_trainer();
  const Loader data = loader();
  for (int i = 0; i < 6; ++i) straight.step(data);
  for (int i = 0; i < 4; ++i) half.step(data);
  Resumed resumed = load_checkpoint(save_checkpoint(folder_, half, state), pool_);
  const auto& [options, step, tokens_seen, tokenizer, definition, files, hash, validation_files,
               checkpoint_every, keep, validate_every, validation_loss] = resumed.run;
  EXPECT_EQ(step, 4);
  EXPECT_EQ(tokens_seen, 99);
  EXPECT_EQ(tokenizer, "space");
  EXPECT_EQ(definition, "space \"600\"\n");
  EXPECT_EQ(files, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(hash, 0xfedcba9876543210u);
  EXPECT_EQ(validation_files, std::vector<std::string>{"c"});
  EXPECT_EQ(checkpoint_every, 6);
  EXPECT_EQ(keep, 7);
  EXPECT_EQ(validate_every, 8);
  EXPECT_EQ(validation_loss, 1.0 / 3);
  for (const TrainOptions* read : {&options, &resumed.trainer->options()}) {
    const auto& [context, batch, accumulation, products, checkpointing, reset, order, prime,
                 dropout, l2wrap, seed, fraction, schedule, optimizer] = *read;
    EXPECT_EQ(context, 24);
    EXPECT_EQ(batch, 3);
    EXPECT_EQ(accumulation, 2);
    EXPECT_EQ(products, DType::kBF16);
    EXPECT_TRUE(checkpointing);
    EXPECT_TRUE(reset);
    EXPECT_EQ(order, WindowOrder::kMagicPrime);
    EXPECT_EQ(prime, 113);
    EXPECT_EQ(dropout, 0.125);
    EXPECT_EQ(l2wrap, 0.25);
    EXPECT_EQ(seed, 12345678901234567890u);
    EXPECT_EQ(fraction, 0.375);
    const auto& [kind, rate, final_rate, warmup, total, constant] = schedule;
    EXPECT_EQ(kind, ScheduleKind::kConstantThenExponential);
    EXPECT_EQ(rate, 0.0011);
    EXPECT_EQ(final_rate, 0.0007);
    EXPECT_EQ(warmup, 3);
    EXPECT_EQ(total, 44);
    EXPECT_EQ(constant, 5);
    const auto& [beta1, beta2, epsilon, decay, clip] = optimizer;
    EXPECT_EQ(beta1, 0.83);
    EXPECT_EQ(beta2, 0.87);
    EXPECT_EQ(epsilon, 0.031);
    EXPECT_EQ(decay, 0.043);
    EXPECT_EQ(clip, 0.57);
  }
  EXPECT_EQ(resumed.trainer->steps_done(), 4);
  EXPECT_EQ(weights(*resumed.trainer), weights(half));
  for (int i = 0; i < 2; ++i) resumed.trainer->step(data);
  EXPECT_EQ(weights(*resumed.trainer), weights(straight));
}

// The file, read without load_checkpoint: what each tensor and each part of the description is
// called is a format.
TEST_F(TrainerTest, ACheckpointIsWhatItsFormatSays) {
  options_.accumulation = 2;
  Trainer trainer = make_trainer();
  for (int i = 0; i < 2; ++i) trainer.step(loader());
  const auto path = save_checkpoint(
      folder_, trainer, {.options = options_, .step = 2, .tokens_seen = 288, .data_hash = 7});
  EXPECT_EQ(path.filename(), "checkpoint-00000002.safetensors");
  const std::string bytes = read_text_file(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  const auto tensor = [&](const std::string& name) {
    const nlohmann::json& entry = header.at(name);
    EXPECT_EQ(entry.at("dtype"), "F32");
    const int64_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    std::vector<float> values((end - begin) / 4);
    std::memcpy(values.data(), bytes.data() + 8 + header_bytes + begin, end - begin);
    return std::vector<double>(values.begin(), values.end());
  };
  EXPECT_EQ(header.size(), 1 + 3 * trainer.model().parameters().size());
  for (size_t i = 0; i < trainer.model().parameters().size(); ++i) {
    const Parameter& p = trainer.model().parameters()[i];
    EXPECT_EQ(tensor(p.spec.name), elements(p.value));
    EXPECT_EQ(tensor("optimizer.m." + p.spec.name), elements(trainer.optimizer().m(i)));
    EXPECT_EQ(tensor("optimizer.v." + p.spec.name), elements(trainer.optimizer().v(i)));
  }
  const auto about =
      nlohmann::json::parse(header.at("__metadata__").at("rookery").get<std::string>());
  EXPECT_EQ(about.at("format"), 1);
  EXPECT_EQ(about.at("generation"), "4");
  EXPECT_EQ(about.at("step"), 2);
  EXPECT_EQ(about.at("tokens_seen"), 288);
  EXPECT_EQ(about.at("random"), (nlohmann::json{{"seed", 1}, {"step", 2}}));
  EXPECT_EQ(about.at("data").at("next_sample"), 2 * 2 * 3);
  EXPECT_EQ(about.at("data").at("hash"), 7);
  EXPECT_EQ(step_of_checkpoint(path), 2);
  EXPECT_EQ(step_of_model(path), 2);
  EXPECT_EQ(step_of_checkpoint("checkpoint-7.safetensors"), 7);
  for (const char* other : {"checkpoint-.safetensors", "checkpoint-1x.safetensors",
                            "model-1.safetensors", "checkpoint-1.pth"}) {
    EXPECT_EQ(step_of_checkpoint(other), -1) << other;
  }
}

class GpuTrainerTest : public TrainerTest {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPU();
    options_.dropout = 0.2;
    options_.accumulation = 2;
    options_.reset_documents = true;
    options_.optimizer.weight_decay = 0.1;
  }
};

TEST_F(GpuTrainerTest, StepsAreThoseOfTheProcessor) {
  for (const bool checkpointing : {false, true}) {
    options_.gradient_checkpointing = checkpointing;
    Trainer here = make_trainer(), there = make_trainer(Device::kCuda);
    const Loader data = loader();
    for (int i = 0; i < 12; ++i) {
      const StepResult a = here.step(data), b = there.step(data);
      EXPECT_NEAR(a.loss, b.loss, 2e-5 * a.loss) << "step " << i;
      EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-3 * a.gradient_norm) << "step " << i;
    }
    TrainingBatch batch;
    for (int i = 0; i < 3; ++i) loader().append(i, batch);
    EXPECT_NEAR(here.evaluate(std::span(&batch, 1)), there.evaluate(std::span(&batch, 1)), 1e-4);
  }
}

TEST_F(GpuTrainerTest, Bfloat16StaysBesideFloat32) {
  Trainer wide = make_trainer(Device::kCuda);
  options_.products = DType::kBF16;
  Trainer narrow = make_trainer(Device::kCuda);
  for (int i = 0; i < 12; ++i) {
    const StepResult a = wide.step(loader()), b = narrow.step(loader());
    EXPECT_NEAR(a.loss, b.loss, 0.02) << "step " << i;
  }
}

// A step is asked for kernel by kernel, or as the graph that was recorded: with the same bits.
TEST_F(GpuTrainerTest, GraphsRepeatTheStep) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    options_.products = products;
    Trainer graph = make_trainer(Device::kCuda), plain = make_trainer(Device::kCuda);
    int backwards = 0;
    plain.on_backward = [&](const Tape&) { ++backwards; };
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(graph.step(loader()).loss, plain.step(loader()).loss);
      TrainingBatch batch;
      loader().append(i, batch);
      if (i == 3) graph.evaluate(std::span(&batch, 1));  // in between
    }
    EXPECT_EQ(backwards, 12);
    EXPECT_EQ(weights(graph), weights(plain));
  }
}

TEST_F(GpuTrainerTest, ResumesBitForBit) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    options_.products = products;
    options_.gradient_checkpointing = products == DType::kBF16;
    Trainer straight = make_trainer(Device::kCuda), half = make_trainer(Device::kCuda);
    const Loader data = loader();
    for (int i = 0; i < 10; ++i) straight.step(data);
    for (int i = 0; i < 5; ++i) half.step(data);
    const auto path = save_checkpoint(folder_, half, {.options = options_, .step = 5});
    Resumed resumed = load_checkpoint(path, pool_, Device::kCuda);
    for (int i = 0; i < 5; ++i) resumed.trainer->step(data);
    EXPECT_EQ(weights(*resumed.trainer), weights(straight));
    EXPECT_NE(weights(half), weights(straight));
  }
}

TEST_F(GpuTrainerTest, SaysWhatWouldFit) {
  options_.accumulation = 1;
  options_.context = 1024;
  options_.batch = 4096;
  const ModelConfig config = make_config("4", 12, 768, 256);
  const int64_t free = cuda::Device::get(0).free_memory();
  if (plan_memory(config, options_, pool_, Device::kCuda).total() <= free) {
    GTEST_SKIP() << "SKIPPED: this GPU has room for all of it";
  }
  try {
    Trainer(Model::initialised(config, {}, pool_), options_, pool_, Device::kCuda);
    ADD_FAILURE() << "4096 windows of 1024 tokens fit?";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a batch of "), std::string::npos) << error.what();
  }
}

TEST_F(TrainerTest, KeepsTheLastCheckpoints) {
  Trainer trainer = make_trainer();
  for (int64_t step = 1; step <= 5; ++step) {
    save_checkpoint(folder_, trainer, {.options = options_, .step = step, .keep = 2});
  }
  const auto left = list_checkpoints(folder_);
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0], checkpoint_path(folder_, 4));
  EXPECT_EQ(left[1], checkpoint_path(folder_, 5));
  EXPECT_TRUE(list_checkpoints(folder_ / "nowhere").empty());
}

TEST_F(TrainerTest, RefusesDamagedCheckpoints) {
  Trainer trainer = make_trainer();
  const auto path = save_checkpoint(folder_, trainer, {.options = options_, .step = 1});
  const std::string whole = read_text_file(path);
  const auto attempt = [&](const std::string& bytes) {
    const auto damaged = folder_ / "damaged.safetensors";
    std::ofstream(damaged, std::ios::binary) << bytes;
    EXPECT_THROW(load_checkpoint(damaged, pool_), Error);
  };
  for (const size_t length :
       {size_t{1}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    attempt(whole.substr(0, length));
  }
  const auto replaced = [&](std::string from, const std::string& to) {
    std::string bytes = whole;
    bytes.replace(bytes.find(from), from.size(), to);
    return bytes;
  };
  attempt(replaced("optimizer.m.emb.weight", "optimizer.m.emb.weighs"));
  attempt(replaced("\\\"batch\\\":3", "\\\"batch\\\":4"));  // the hash notices
  attempt(replaced("\\\"context\\\":24", "\\\"context\\\":-4"));
  attempt(replaced("\\\"step\\\":1", "\\\"step\\\":x"));
  // A model without the state of training.
  save_model(folder_ / "model.safetensors", trainer.model(), {.options = options_});
  EXPECT_THROW(load_checkpoint(folder_ / "model.safetensors", pool_), Error);
}

TEST_F(TrainerTest, TheOrderAndTheTokenizerAreKept) {
  options_.order = WindowOrder::kMagicPrime;
  options_.magic_prime = 113;
  Trainer trainer = make_trainer();
  const RunState state = {.options = options_,
                          .tokenizer = "space",
                          .tokenizer_definition = "space \"600\"\n",
                          .validation_files = {"a", "b"}};
  const auto path = save_checkpoint(folder_, trainer, state);
  const RunState run = load_checkpoint(path, pool_).run;
  EXPECT_EQ(run.options.order, WindowOrder::kMagicPrime);
  EXPECT_EQ(run.options.magic_prime, 113);
  EXPECT_EQ(run.tokenizer, "space");
  EXPECT_EQ(run.tokenizer_definition, state.tokenizer_definition);
  EXPECT_EQ(run.validation_files, state.validation_files);
  save_model(folder_ / "model.safetensors", trainer.model(), state);
  EXPECT_EQ(open_checkpoint(folder_ / "model.safetensors").metadata.at("tokenizer"),
            state.tokenizer_definition);
}

TEST_F(TrainerTest, RefusesCheckpointsOfAnotherFormat) {
  Trainer trainer = make_trainer();
  const auto path = save_checkpoint(folder_, trainer, {.options = options_, .step = 1});
  std::string bytes = read_text_file(path);
  const std::string format = "\\\"format\\\":2";
  ASSERT_NE(bytes.find(format), std::string::npos);
  bytes[bytes.find(format) + format.size() - 1] = '1';  // before there was XXH3
  std::ofstream(folder_ / "other.safetensors", std::ios::binary) << bytes;
  try {
    load_checkpoint(folder_ / "other.safetensors", pool_);
    ADD_FAILURE() << "it was loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what())
                  .find("it has version 1 of the format of checkpoints, this program reads version "
                        "2: begin a new run with its weights"),
              std::string_view::npos)
        << error.what();
  }
}

TEST_F(TrainerTest, RefusesOptionsThatDoNotFit) {
  const TrainOptions good = options_;
  const auto bad = [&](auto change) {
    options_ = good;
    change(options_);
    EXPECT_THROW(validate(options_), Error);
  };
  EXPECT_NO_THROW(validate(good));
  bad([](TrainOptions& o) { o.context = 0; });
  bad([](TrainOptions& o) { o.batch = -1; });
  bad([](TrainOptions& o) { o.context = o.batch = int64_t{1} << 30; });
  bad([](TrainOptions& o) { o.dropout = 1; });
  bad([](TrainOptions& o) { o.products = DType::kF16; });
  bad([](TrainOptions& o) { o.optimizer.beta2 = 1; });
  bad([](TrainOptions& o) { o.optimizer.clip = NAN; });
  bad([](TrainOptions& o) { o.schedule.rate = -1; });
  bad([](TrainOptions& o) { o.validation_fraction = 1; });
  bad([](TrainOptions& o) { o.magic_prime = -1; });
}

}  // namespace
}  // namespace rookery
