// RWKV-4 as a whole: gradients, and that the ways of cutting a text into calls agree.

#include "models/rwkv4.h"

#include <gtest/gtest.h>

#include <numeric>

#include "checking/checked_run.h"
#include "models/load.h"
#include "ops/cross_entropy/cross_entropy.h"

namespace rookery {
namespace {

constexpr int64_t kLayers = 3, kWidth = 24, kVocabulary = 19;

class Rwkv4Test : public ::testing::Test {
 protected:
  Rwkv4Test() {
    ctx.pool = &pool;
    ctx.arena = &arena;
    for (int i = 0; i < 330; ++i) text.push_back((i * i + 3 * i) % kVocabulary);
  }
  Model make_model(const char* scheme = "random") {
    return Model::initialised(make_config("4", kLayers, kWidth, kVocabulary), {.scheme = scheme},
                              pool);
  }

  // Logits of every token of `text`, fed in pieces of these lengths, through slot 0 of `state`.
  std::vector<double> run(const Model& model, const std::vector<int64_t>& pieces, State& state) {
    std::vector<double> result;
    int64_t begin = 0;
    for (const int64_t length : pieces) {
      arena.reset();
      Batch batch;
      batch.add(std::span(text).subspan(begin, length), 0, 0);
      begin += length;
      const Tensor x = model.forward(ctx, PlacedBatch(batch, kVocabulary, ctx), {&state, &state});
      std::vector<int32_t> rows(length);
      std::iota(rows.begin(), rows.end(), 0);
      const auto logits = elements(model.logits(ctx, x, rows.data(), length));
      result.insert(result.end(), logits.begin(), logits.end());
    }
    return result;
  }
  static std::vector<int64_t> pieces_of(int64_t total, int64_t length) {
    std::vector<int64_t> pieces;
    for (int64_t at = 0; at < total; at += length) pieces.push_back(std::min(length, total - at));
    return pieces;
  }

  ThreadPool pool{2};
  Arena arena;
  Context ctx;
  std::vector<int32_t> text;
};

TEST_F(Rwkv4Test, AllAtOnceEqualsOneByOneEqualsChunks) {
  const Model model = make_model();
  State whole(model.state_layout(), 1);
  const auto expected = run(model, {330}, whole);
  for (const int64_t length : {1, 7, 64, 129}) {
    SCOPED_TRACE(length);
    State state(model.state_layout(), 1);
    compare_elements("logits", run(model, pieces_of(330, length), state), expected, 2e-5);
    compare_elements("state", elements(state.slot(0)), elements(whole.slot(0)), 2e-5);
  }
}

TEST_F(Rwkv4Test, DeterministicIsTheSameToTheBit) {
  const Model model = make_model();
  ctx.deterministic = true;
  State whole(model.state_layout(), 1), state(model.state_layout(), 1);
  const auto expected = run(model, {330}, whole);
  EXPECT_EQ(run(model, {1, 1, 100, 3, 225}, state), expected);
  EXPECT_EQ(elements(state.slot(0)), elements(whole.slot(0)));
}

// Training-like, prefill-like and decode-like sequences in one call, states in shuffled slots.
TEST_F(Rwkv4Test, PackedWithStrangersEqualsAlone) {
  const Model model = make_model();
  State alone(model.state_layout(), 1);
  const auto expected = run(model, {200, 50, 1, 79}, alone);

  State state(model.state_layout(), 4);
  const std::span<const int32_t> all(text);
  std::vector<double> result;
  for (const auto& [begin, length] :
       {std::pair<int64_t, int64_t>{0, 200}, {200, 50}, {250, 1}, {251, 79}}) {
    arena.reset();
    Batch batch;
    batch.add(all.subspan(3, 70), -1, 1);
    batch.add(all.subspan(begin, length), 2, 2);
    batch.add(all.subspan(5, 1), 3, 3);
    batch.add(all.subspan(0, 9), 0, -1);
    const Tensor x = model.forward(ctx, PlacedBatch(batch, kVocabulary, ctx), {&state, &state});
    std::vector<int32_t> rows(length);
    std::iota(rows.begin(), rows.end(), 70);
    const auto logits = elements(model.logits(ctx, x, rows.data(), length));
    result.insert(result.end(), logits.begin(), logits.end());
  }
  compare_elements("logits", result, expected, 2e-5);
  compare_elements("state", elements(state.slot(2)), elements(alone.slot(0)), 2e-5);
}

TEST_F(Rwkv4Test, MatchesDefinition) {
  const Model model = make_model();
  State state(model.state_layout(), 1);
  const auto actual = run(model, {330}, state);
  const Model exact = model.converted(DType::kF64);
  Context ref = ctx;
  ref.device = Device::kRef;
  ref.dtype = DType::kF64;
  std::swap(ctx, ref);
  State exact_state(model.state_layout(), 1, DType::kF64);
  compare_elements("logits", actual, run(exact, {330}, exact_state), 2e-5);
  compare_elements("state", elements(state.slot(0)), elements(exact_state.slot(0)), 2e-5);
}

// Gradients of all parameters by name, and the loss.
struct Gradients {
  std::map<std::string, std::vector<double>> values;
  double objective = 0;
  int64_t arena_peak = 0, tape_peak = 0;
};

class Rwkv4GradientTest : public Rwkv4Test {
 protected:
  Rwkv4GradientTest() {
    batch_.add(std::span(text).subspan(0, 40), -1, -1);
    batch_.add(std::span(text).subspan(40, 9), -1, -1);
    for (int64_t i = 0; i < batch_.rows(); ++i) targets_.push_back(i % 7 == 6 ? -1 : text[i + 1]);
  }
  CrossEntropyResult loss(Context& context, const Model& model, float dropout) {
    placed_ = PlacedBatch(batch_, kVocabulary, context);
    const Tensor x = model.forward(context, placed_, {.dropout = dropout});
    return cross_entropy(context, model.output_norm(context, x), model.head(), targets_.data(),
                         {.scale = 1.0 / 42, .l2wrap = 1e-2});
  }
  Gradients gradients(Model& model, bool checkpointing, float dropout = 0) {
    model.prepare_training(false);
    Gradients result;
    Tape tape;
    Arena own_arena;
    Context training = ctx;
    training.arena = &own_arena;
    training.tape = &tape;
    training.gradient_checkpointing = checkpointing;
    training.seed = 5;
    std::vector<Memory> memory;
    std::vector<std::pair<const Parameter*, TensorView>> views;
    int completed = 0;
    tape.on_gradient_complete = [&](int64_t) { ++completed; };
    for (const Parameter& p : model.parameters()) {
      memory.emplace_back(p.value.bytes());
      views.emplace_back(&p, TensorView{memory.back().data(), DType::kF32, p.value.shape});
      tape.keep_gradient(p.value, views.back().second, false);
    }
    result.objective = elements(loss(training, model, dropout).objective)[0];
    tape.run_backward();
    EXPECT_EQ(completed, static_cast<int>(model.parameters().size()));
    for (const auto& [p, view] : views) result.values[p->spec.name] = elements(view);
    result.arena_peak = own_arena.peak();
    result.tape_peak = tape.peak_bytes();
    return result;
  }
  // d objective / d parameter along `direction`, by the complex step through the whole model.
  double derivative(const Model& complex, const Parameter& parameter,
                    const std::vector<double>& direction, float dropout) {
    Context ref = ctx;
    ref.device = Device::kRef;
    ref.dtype = DType::kC128;
    ref.seed = 5;
    auto* p = complex.parameter(parameter.spec.name).value.as<std::complex<double>>();
    for (size_t i = 0; i < direction.size(); ++i) p[i].imag(direction[i] * 1e-100);
    const ArenaScope scope(arena);
    const double result =
        loss(ref, complex, dropout).objective.as<std::complex<double>>()->imag() / 1e-100;
    for (size_t i = 0; i < direction.size(); ++i) p[i].imag(0);
    return result;
  }

  Batch batch_;
  PlacedBatch placed_;
  std::vector<int32_t> targets_;
};

TEST_F(Rwkv4GradientTest, EveryParameterMatchesComplexStep) {
  for (const float dropout : {0.0f, 0.3f}) {
    Model model = make_model();
    const Gradients actual = gradients(model, false, dropout);
    const Model complex = model.converted(DType::kC128);
    double global = 0;
    for (const auto& [name, values] : actual.values) global = std::hypot(global, norm(values));
    Random random(3);
    for (const Parameter& parameter : model.parameters()) {
      const std::vector<double>& gradient = actual.values.at(parameter.spec.name);
      std::vector<double> direction(gradient.size());
      for (double& x : direction) x = random.next_u32() & 1 ? 1 : -1;
      double along = 0;
      for (size_t i = 0; i < gradient.size(); ++i) along += gradient[i] * direction[i];
      compare_elements(parameter.spec.name, {along},
                       {derivative(complex, parameter, direction, dropout)},
                       2e-5 * std::max(norm(gradient), 1e-2 * global));
    }
  }
}

TEST_F(Rwkv4GradientTest, CheckpointingChangesMemoryAndNothingElse) {
  Model model = make_model();
  for (const float dropout : {0.0f, 0.3f}) {
    const Gradients plain = gradients(model, false, dropout),
                    again = gradients(model, true, dropout);
    EXPECT_EQ(plain.values, again.values);
    EXPECT_EQ(plain.objective, again.objective);
    EXPECT_LT(again.arena_peak, plain.arena_peak);
  }
}

TEST_F(Rwkv4GradientTest, PlanningPredictsMemory) {
  for (const bool checkpointing : {false, true}) {
    Model model = make_model();
    const Gradients actual = gradients(model, checkpointing, 0.1f);
    Model planned = Model::planned(model.config());
    planned.prepare_training(false);
    Arena planning(MemoryKind::kPlan);
    Tape tape(MemoryKind::kPlan);
    Context meta = ctx;
    meta.device = Device::kMeta;
    meta.arena = &planning;
    meta.tape = &tape;
    meta.gradient_checkpointing = checkpointing;
    for (const Parameter& p : planned.parameters()) {
      tape.keep_gradient(p.value, {reinterpret_cast<void*>(8), DType::kF32, p.value.shape}, false);
    }
    loss(meta, planned, 0.1f);
    tape.run_backward();
    EXPECT_EQ(planning.peak(), actual.arena_peak);
    EXPECT_EQ(tape.peak_bytes(), actual.tape_peak);
  }
}

TEST(Rwkv4, CountsOfThePapersTable2) {
  const struct {
    int64_t layers, width;
    double parameters, flops;
  } kTable[] = {{12, 768, 1.693e8, 2.613e8},   {24, 1024, 4.304e8, 7.573e8},
                {24, 2048, 1.515e9, 2.823e9},  {32, 2560, 2.985e9, 5.710e9},
                {32, 4096, 7.393e9, 1.437e10}, {40, 5120, 1.415e10, 2.778e10}};
  for (const auto& row : kTable) {
    const Model model = Model::planned(make_config("4", row.layers, row.width, 50277));
    const int64_t D = row.width, L = row.layers;
    EXPECT_EQ(model.parameter_count(), 2 * 50277 * D + 13 * D * D * L + D * (11 * L + 4));
    // To the digits printed, give or take one in the last.
    const auto digit = [](double x) { return 1.01 * std::pow(10, std::floor(std::log10(x)) - 3); };
    EXPECT_NEAR(static_cast<double>(model.parameter_count()), row.parameters,
                digit(row.parameters));
    EXPECT_NEAR(forward_flops_per_token(model), row.flops, digit(row.flops));
  }
}

TEST_F(Rwkv4Test, InitialisationsAreTheirRecipes) {
  const Model released = make_model("released");
  const auto values = [](const Model& m, const char* name) {
    return elements(m.parameter(name).value);
  };
  EXPECT_EQ(largest(values(released, "blocks.1.att.key.weight")), 0);
  EXPECT_EQ(largest(values(released, "blocks.2.att.output.weight")), 0);
  EXPECT_LE(largest(values(released, "emb.weight")), 1e-4);
  EXPECT_GT(largest(values(released, "emb.weight")), 0.9e-4);
  // Columns of the channel mixing's key are orthogonal, of length 2; those of the value matrix of
  // length 1.
  const auto column_products = [&](const char* name, int64_t rows) {
    const auto w = values(released, name);
    double diagonal = 0, off = 0;
    for (int64_t i = 0; i < rows; ++i) {
      diagonal += w[i * kWidth] * w[i * kWidth];
      off += w[i * kWidth] * w[i * kWidth + 1];
    }
    return std::pair(diagonal, off);
  };
  const auto [key, key_off] = column_products("blocks.1.ffn.key.weight", 4 * kWidth);
  EXPECT_NEAR(key, 4, 1e-4);
  EXPECT_NEAR(key_off, 0, 1e-4);
  const auto [value, value_off] = column_products("blocks.1.att.value.weight", kWidth);
  EXPECT_NEAR(value, 1, 1e-4);
  EXPECT_NEAR(value_off, 0, 1e-4);
  const auto decay = values(released, "blocks.2.att.time_decay");
  EXPECT_NEAR(decay.front(), -5, 1e-6);
  EXPECT_NEAR(decay.back(), 3, 1e-6);
  EXPECT_NEAR(decay[5], -5 + 8 * std::pow(5.0 / 23, 2.0), 1e-6);
  EXPECT_NEAR(values(released, "blocks.0.att.time_first")[1], std::log(0.3) + 0.5, 1e-6);
  EXPECT_NEAR(values(released, "blocks.1.att.time_mix_r")[6], std::sqrt(std::pow(0.25, 2.0 / 3)),
              1e-6);
  const Model paper = make_model("paper");
  EXPECT_NEAR(values(paper, "blocks.1.att.time_mix_r")[6], 0.5 * std::pow(0.25, 2.0 / 3), 1e-6);
  EXPECT_EQ(largest(values(paper, "head.weight")), 0);
  EXPECT_NEAR(norm(values(paper, "blocks.0.ffn.value.weight")) / std::sqrt(4.0 * kWidth * kWidth),
              2, 0.1);
  EXPECT_THROW(make_model("orthogonal"), Error);
}

TEST_F(Rwkv4Test, LoadsWhatItHoldsAndRefusesTheRest) {
  const Model model = make_model();
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : model.parameters()) tensors.push_back({p.spec.name, p.value});
  const Model again = model_from_tensors(tensors, MatrixType::kAsStored);
  EXPECT_EQ(again.config(), model.config());
  State a(model.state_layout(), 1), b(model.state_layout(), 1);
  EXPECT_EQ(run(model, {330}, a), run(again, {330}, b));

  // Tensors that are made one at a time, in another type or in that of the model.
  const Model low = model_from_tensors(tensors, MatrixType::kBF16);
  for (const MatrixType type : {MatrixType::kF32, MatrixType::kBF16}) {
    int calls = 0;
    std::vector<NamedTensor> made;
    for (const NamedTensor& tensor : tensors) {
      made.push_back({tensor.name,
                      {nullptr, tensor.view.dtype, tensor.view.shape},
                      [&calls, from = tensor.view](void* to) {
                        ++calls;
                        std::memcpy(to, from.data, static_cast<size_t>(from.bytes()));
                      }});
    }
    const Model loaded = model_from_tensors(made, type, 1e-3f);
    EXPECT_EQ(calls, static_cast<int>(tensors.size()));
    EXPECT_EQ(loaded.config().norm_epsilon, 1e-3f);
    const Model& wanted = type == MatrixType::kF32 ? model : low;
    for (size_t i = 0; i < made.size(); ++i) {
      const Tensor& got = loaded.parameters()[i].value;
      EXPECT_EQ(std::memcmp(got.data, wanted.parameters()[i].value.data,
                            static_cast<size_t>(got.bytes())),
                0)
          << made[i].name;
    }
  }

  auto missing = tensors;
  missing.erase(missing.begin() + 12);
  EXPECT_THROW(model_from_tensors(missing, MatrixType::kAsStored), Error);
  auto reshaped = tensors;
  reshaped[5].view.shape = {kWidth - 1};
  EXPECT_THROW(model_from_tensors(reshaped, MatrixType::kAsStored), Error);
  auto unknown = tensors;
  unknown.push_back({"blocks.0.att.surprise", tensors[5].view});
  EXPECT_THROW(model_from_tensors(unknown, MatrixType::kAsStored), Error);
  auto twice = tensors;
  twice.push_back(tensors[5]);
  EXPECT_THROW(model_from_tensors(twice, MatrixType::kAsStored), Error);
  auto far = tensors;
  far.push_back({"blocks.999999999.att.key.weight", tensors[5].view});
  EXPECT_THROW(model_from_tensors(far, MatrixType::kAsStored), Error);
}

}  // namespace
}  // namespace rookery
