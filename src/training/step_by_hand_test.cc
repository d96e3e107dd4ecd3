// Trainer::step with every option unusual, beside the same steps computed by hand in double: the
// objective from the operators' definitions, its gradient by the complex step, one number at a
// time, and the schedule, clipping and AdamW from their formulas.

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <numbers>

#include "checking/checked_run.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "training/trainer.h"

namespace rookery {
namespace {

using Complex = std::complex<double>;

constexpr int64_t kVocabulary = 11, kContext = 5, kBatch = 2;

bool is_one_of(const std::string& name, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](const char* ending) { return name.ends_with(ending); });
}

// The released training code's groups: the decay moves at twice the learning rate, the bonus at
// three times, and only matrices decay.
double rate_multiplier(const std::string& name) {
  return is_one_of(name, {".time_decay"}) ? 2 : is_one_of(name, {".time_first"}) ? 3 : 1;
}
bool decays(const std::string& name) {
  return is_one_of(name, {"emb.weight", "head.weight", ".key.weight", ".value.weight",
                          ".receptance.weight", ".output.weight"});
}

// Windows of kContext tokens, cut at documents, with masked targets; one micro-batch has none but
// masked ones.
std::vector<TrainingBatch> micro_batches(int64_t count) {
  std::vector<TrainingBatch> batches(count);
  for (int64_t i = 0; i < count; ++i) {
    TrainingBatch& batch = batches[i];
    for (int64_t t = 0; t < kBatch * kContext; ++t) {
      batch.tokens.push_back(static_cast<int32_t>((3 * t * t + 5 * t + 7 * i) % kVocabulary));
      const bool masked = i == 1 || (t + i) % 4 == 3;
      batch.targets.push_back(
          masked ? -1 : static_cast<int32_t>((t * t + 2 * t + 3 * i + 1) % kVocabulary));
    }
    batch.offsets =
        i == 0 ? std::vector<int64_t>{0, 2, 5, 8, 10} : std::vector<int64_t>{0, 5, 6, 10};
  }
  return batches;
}

class ByHand {
 public:
  ByHand(const Model& model, const TrainOptions& options)
      : options_(options), model_(model.converted(DType::kC128)) {
    for (const Parameter& parameter : model_.parameters()) {
      m_.emplace_back(parameter.value.count());
      v_.emplace_back(parameter.value.count());
    }
  }

  double loss = 0, norm = 0, rate = 0;
  std::vector<std::vector<double>> gradients;  // before clipping

  // The step numbered `index`, from 0; `taken` steps of Adam come before it.
  void step(const std::vector<TrainingBatch>& batches, int64_t index, int64_t taken) {
    gradients.clear();
    loss = objective(batches, index, 0).real();
    double squares = 0;
    for (const Parameter& parameter : model_.parameters()) {
      auto* p = parameter.value.as<Complex>();
      std::vector<double>& gradient = gradients.emplace_back();
      for (int64_t i = 0; i < parameter.value.count(); ++i) {
        p[i].imag(1e-100);
        gradient.push_back(objective(batches, index, options_.l2wrap).imag() / 1e-100);
        p[i].imag(0);
        squares += gradient.back() * gradient.back();
      }
    }
    norm = std::sqrt(squares);
    rate = rate_of(index);
    const OptimizerOptions& o = options_.optimizer;
    const double clip = o.clip > 0 ? std::min(1.0, o.clip / (norm + 1e-6)) : 1;
    const auto t = static_cast<double>(taken + 1);
    for (size_t k = 0; k < gradients.size(); ++k) {
      const Parameter& parameter = model_.parameters()[k];
      const std::string& name = parameter.spec.name;
      for (size_t i = 0; i < gradients[k].size(); ++i) {
        const double g = gradients[k][i] * clip;
        m_[k][i] = o.beta1 * m_[k][i] + (1 - o.beta1) * g;
        v_[k][i] = o.beta2 * v_[k][i] + (1 - o.beta2) * g * g;
        const double m = m_[k][i] / (1 - std::pow(o.beta1, t));
        const double v = v_[k][i] / (1 - std::pow(o.beta2, t));
        Complex& p = parameter.value.as<Complex>()[i];
        const double decay = decays(name) ? o.weight_decay : 0;
        p -= rate * rate_multiplier(name) * (m / (std::sqrt(v) + o.epsilon) + decay * p);
      }
    }
  }

  void expect_equal(const Trainer& trainer, const StepResult& result) const {
    EXPECT_NEAR(result.loss, loss, 1e-6 * loss);
    EXPECT_NEAR(result.gradient_norm, norm, 2e-6 * norm);
    EXPECT_NEAR(result.learning_rate, rate, 1e-15);
    for (size_t k = 0; k < gradients.size(); ++k) {
      const std::string& name = model_.parameters()[k].spec.name;
      const double multiple = rate_multiplier(name);
      const std::vector<double> p = elements(model_.parameters()[k].value);
      const Optimizer::Entry& entry = trainer.optimizer().entries()[k];
      compare(name + ": gradient", elements(entry.gradient), gradients[k],
              1e-5 * norm / std::sqrt(gradients[k].size()));
      compare(name + ": m", elements(entry.m), m_[k], 1e-5 * largest(m_[k]));
      compare(name + ": v", elements(entry.v), v_[k], 1e-5 * largest(v_[k]));
      compare(name, elements(trainer.model().parameters()[k].value), p,
              2e-5 * multiple * rate + 0x1p-23 * largest(p));
    }
  }

 private:
  static void compare(const std::string& what, const std::vector<double>& actual,
                      const std::vector<double>& expected, double tolerance) {
    try {
      compare_elements(what, actual, expected, tolerance);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }

  // The formulas of schedule.h: warm-up, then cosine.
  double rate_of(int64_t index) const {
    const ScheduleOptions& s = options_.schedule;
    const double x = std::max(0.0, static_cast<double>(index - s.warmup_steps) /
                                       static_cast<double>(s.total_steps - s.warmup_steps));
    const double rate =
        s.final_rate + (s.rate - s.final_rate) * (1 + std::cos(std::numbers::pi * x)) / 2;
    return index < s.warmup_steps ? rate * (0.01 + 0.99 * static_cast<double>(index) /
                                                       static_cast<double>(s.warmup_steps))
                                  : rate;
  }

  // The mean over the step's targets of loss + l2wrap / 2 (largest logit)^2.
  Complex objective(const std::vector<TrainingBatch>& batches, int64_t index, double l2wrap) {
    int64_t targets = 0;
    for (const TrainingBatch& batch : batches) {
      targets += std::count_if(batch.targets.begin(), batch.targets.end(),
                               [](int32_t t) { return t >= 0; });
    }
    Complex sum = 0;
    for (size_t i = 0; i < batches.size(); ++i) {
      arena_.reset();
      // Micro-batch n of a run takes its dropout masks from the random streams 2^62 + 2^16 n on.
      const uint64_t base =
          (uint64_t{1} << 62) + ((static_cast<uint64_t>(index) * batches.size() + i) << 16);
      Context ctx;
      ctx.device = Device::kRef;
      ctx.dtype = DType::kC128;
      ctx.arena = &arena_;
      ctx.seed = options_.seed;
      ctx.random_base = {&base};
      Batch batch;
      batch.tokens = batches[i].tokens;
      batch.offsets = batches[i].offsets;
      batch.slot_in.assign(batch.offsets.size() - 1, -1);
      batch.slot_out = batch.slot_in;
      const PlacedBatch placed(batch, kVocabulary, ctx);
      const Tensor x =
          model_.forward(ctx, placed, {.dropout = static_cast<float>(options_.dropout)});
      const CrossEntropyResult result =
          cross_entropy(ctx, model_.output_norm(ctx, x), model_.head(), batches[i].targets.data(),
                        {.scale = 1 / static_cast<double>(targets), .l2wrap = l2wrap});
      sum += result.objective.as<Complex>()[0];
    }
    return sum;
  }

  TrainOptions options_;
  Model model_;
  std::vector<std::vector<double>> m_, v_;
  Arena arena_;
};

class StepByHand : public ::testing::Test {
 protected:
  StepByHand() {
    options_.context = kContext;
    options_.batch = kBatch;
    options_.accumulation = 3;
    options_.reset_documents = true;
    options_.dropout = 0.25;
    options_.l2wrap = 0.5;
    options_.seed = 77;
    // Large, so that an update stands far above the rounding of a parameter.
    options_.schedule = {.kind = ScheduleKind::kCosine,
                         .rate = 0.03,
                         .final_rate = 0.004,
                         .warmup_steps = 2,
                         .total_steps = 9};
    // As large as the clipped gradient's elements, so that it counts and no direction is a mere
    // sign.
    options_.optimizer = {
        .beta1 = 0.6, .beta2 = 0.7, .epsilon = 2e-3, .weight_decay = 0.3, .clip = 0.05};
  }

  // Steps first, first + 1, ... of a trainer that begins there, each beside the one by hand.
  void expect_steps(int64_t first, int64_t count) {
    Model model = Model::initialised(make_config("4", 2, 6, kVocabulary),
                                     {.scheme = "random", .seed = 5}, pool_);
    ByHand by_hand(model, options_);
    Trainer trainer(std::move(model), options_, pool_);
    trainer.set_steps_done(first);
    const std::vector<TrainingBatch> batches = micro_batches(options_.accumulation);
    for (int64_t i = first; i < first + count; ++i) {
      SCOPED_TRACE(fmt::format("step {}", i));
      const StepResult result = trainer.step(batches);
      by_hand.step(batches, i, i);
      by_hand.expect_equal(trainer, result);
      EXPECT_EQ(result.learning_rate, learning_rate(options_.schedule, i));
    }
  }

  ThreadPool pool_{2};
  TrainOptions options_;
};

TEST_F(StepByHand, EveryOptionUnusual) { expect_steps(0, 2); }

TEST_F(StepByHand, InTheMiddleOfARun) {
  options_.gradient_checkpointing = true;
  options_.accumulation = 2;
  expect_steps(5, 1);
}

TEST_F(StepByHand, WithoutDropoutClippingWeightDecayAndL2Wrap) {
  options_.accumulation = 1;
  options_.dropout = 0;
  options_.l2wrap = 0;
  options_.optimizer.clip = 0;
  options_.optimizer.weight_decay = 0;
  expect_steps(0, 1);
}

// A gradient below the limit is left as it is.
TEST_F(StepByHand, ClippingOnlyShortens) {
  options_.accumulation = 1;
  options_.optimizer.clip = 1000;
  expect_steps(0, 1);
}

}  // namespace
}  // namespace rookery
