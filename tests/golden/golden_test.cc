// Models with known outputs, on the CPU and, if there is one, on the GPU.
//   OwnFiles   tests/golden/*.safetensors, written by reference.py in the same folder, which
//              describes them. Every generation that is built has some.
//   Shared...  the files of golden_folder(), if it exists, listed at run time:
//                ref-G.json + .pth           logits after some tokens, evaluated in float64
//                train-G.json + ref-G.pth    a training run in float64
//                tiny-*.bin + expected-logits-*.bin    trained models of the rwkv.cpp project
//              Files of a generation that is not built are left out.
// In bfloat16 the relative L2 error may be twice that of a computation in double that rounds the
// output of every operator to bfloat16.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "checking/checked_run.h"
#include "checking/files_for_tests.h"
#include "checkpoints/load.h"
#include "formats/tensor_source.h"
#include "inference/session.h"
#include "io/file.h"
#include "models/detect.h"
#include "models/load.h"
#include "training/trainer.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

ThreadPool& pool() {
  static ThreadPool threads(default_threads());
  return threads;
}

// ---- Comparisons on the GPU are counted, whether or not there is one ----

struct GpuComparisons {
  int made = 0, missed = 0;

  // Runs `compare`, or counts that it was missed.
  void run(const std::function<void()>& compare) {
    if (cuda::unavailable().empty()) {
      ++made;
      compare();
    } else {
      ++missed;
    }
  }
};
GpuComparisons gpu;

class PrintsTheCount : public testing::Environment {
 public:
  void TearDown() override {
    if (gpu.missed > 0) {
      fmt::print("Comparisons on the GPU: {} were not made: {}\n", gpu.missed, cuda::unavailable());
    } else {
      fmt::print("Comparisons on the GPU: {} were made\n", gpu.made);
    }
  }
};
const testing::Environment* const prints_the_count =
    testing::AddGlobalTestEnvironment(new PrintsTheCount);

// Ends a test whose comparisons, those since `before`, were missed.
#define SKIP_IF_MISSED(before) \
  if (gpu.missed > (before))   \
  GTEST_SKIP() << "SKIPPED: comparisons on the GPU that were not made: " << gpu.missed - (before)

// The logits of every row are wanted.
PlacedBatch place_with_all_logits(Batch& batch, const Model& model, const Context& ctx) {
  batch.wanted.resize(batch.rows());
  std::iota(batch.wanted.begin(), batch.wanted.end(), 0);
  return PlacedBatch(batch, model.config().vocabulary, ctx);
}

// ---- Comparing ----

// |actual - expected| / |expected|; infinite if a number is NaN.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  check(actual.size() == expected.size() && !expected.empty()) ||
      fail("{} numbers, expected {}", actual.size(), expected.size());
  std::vector<double> difference(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) difference[i] = actual[i] - expected[i];
  const double error = norm(difference) / norm(expected);
  return std::isnan(error) ? INFINITY : error;
}

// The largest |actual - expected|; infinite if a number is NaN.
double largest_difference(const std::vector<double>& actual, const std::vector<double>& expected) {
  check(actual.size() == expected.size()) ||
      fail("{} numbers, expected {}", actual.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(actual[i] - expected[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

// The relative errors of one comparison. Prints the one that is closest to its limit.
class Errors {
 public:
  explicit Errors(std::string title) : title_(std::move(title)) {}
  ~Errors() {
    fmt::print("  {}: {:.0f} % of the limit at {}\n", title_, 100 * worst_, worst_name_);
  }
  Errors(const Errors&) = delete;
  Errors& operator=(const Errors&) = delete;

  void add(const std::string& what, const std::vector<double>& actual,
           const std::vector<double>& expected, double limit) {
    const double error = relative_error(actual, expected);
    EXPECT_LE(error, limit) << title_ << ", " << what << ": relative error";
    if (error / limit <= worst_) return;
    worst_ = error / limit;
    worst_name_ = what;
  }

 private:
  std::string title_, worst_name_;
  double worst_ = 0;
};

// ---- Feeding ----

enum class Way { kAtOnce, kOneByOne, kPieces, kDeterministic, kPacked };
constexpr std::pair<Way, const char*> kWays[] = {{Way::kAtOnce, "all at once"},
                                                 {Way::kOneByOne, "one by one"},
                                                 {Way::kPieces, "in pieces of 50"},
                                                 {Way::kDeterministic, "deterministic"},
                                                 {Way::kPacked, "packed"}};

// The logits after every token of one sequence [tokens, V]. A deterministic session must have been
// made so.
std::vector<double> feed(Session& session, std::span<const int32_t> tokens, Way way) {
  const size_t piece = way == Way::kAtOnce ? tokens.size() : way == Way::kPieces ? 50 : 1;
  std::vector<double> logits;
  for (size_t at = 0; at < tokens.size(); at += piece) {
    const auto part = tokens.subspan(at, std::min(piece, tokens.size() - at));
    if (piece == 1) {
      const std::span<const float> row = session.feed(part);
      logits.insert(logits.end(), row.begin(), row.end());
    } else {
      const std::vector<float> rows = session.feed_all(part);
      logits.insert(logits.end(), rows.begin(), rows.end());
    }
  }
  return logits;
}

// ---- The project's own files ----

// Relative errors that float32 may have; measured: 1.1e-6 and 6e-6.
constexpr double kForwardLimit = 4e-6, kGradientLimit = 2e-5;
// Of a computation in double: the files hold float32 numbers, whose rounding is up to 2^-24.
constexpr double kExactLimit = 0x1p-24;
// Of bfloat16, in units of what rounding costs an otherwise exact computation.
constexpr double kRoundings = 2;

struct Golden {
  std::string name;  // rwkv4-bfloat16
  TensorSource checkpoint;
  std::map<std::string, std::vector<double>> numbers;  // reference.py says which
  std::vector<int32_t> tokens, targets;
  std::vector<int64_t> offsets;

  bool stores_bfloat16() const { return checkpoint.tensors[0].dtype == DType::kBF16; }
  Model model(MatrixType type) const { return model_from_tensors(model_tensors(checkpoint), type); }
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  std::span<const int32_t> sequence(int64_t s) const {
    return std::span(tokens).subspan(offsets[s], offsets[s + 1] - offsets[s]);
  }
  std::vector<double> logits(int64_t s) const {
    const std::vector<double>& all = numbers.at("logits");
    const int64_t vocabulary = static_cast<int64_t>(all.size()) / offsets.back();
    return {all.begin() + offsets[s] * vocabulary, all.begin() + offsets[s + 1] * vocabulary};
  }
};

std::string generation_of(const TensorSource& source) {
  std::vector<TensorInfo> infos;
  for (const StoredTensor& tensor : source.tensors) infos.push_back({tensor.name, tensor.shape});
  return detect_generation(infos);
}

const std::vector<Golden>& own_files() {
  static const std::vector<Golden> files = [] {
    const std::string_view suffix = "-expected.safetensors";
    std::vector<Golden> found;
    for (const auto& entry : fs::directory_iterator(ROOKERY_GOLDEN)) {
      const std::string file = entry.path().filename().string();
      if (!file.ends_with(suffix)) continue;
      Golden golden;
      golden.name = file.substr(0, file.size() - suffix.size());
      golden.checkpoint =
          open_checkpoint(entry.path().parent_path() / (golden.name + ".safetensors"));
      const TensorSource expected = open_checkpoint(entry.path());
      TensorReader reader;
      for (const StoredTensor& tensor : expected.tensors) {
        const auto* data = static_cast<const float*>(reader.read(tensor));
        golden.numbers[tensor.name] = {data, data + tensor.shape.count()};
      }
      const auto& n = golden.numbers;
      golden.tokens.assign(n.at("tokens").begin(), n.at("tokens").end());
      golden.targets.assign(n.at("targets").begin(), n.at("targets").end());
      golden.offsets.assign(n.at("offsets").begin(), n.at("offsets").end());
      found.push_back(std::move(golden));
    }
    return found;
  }();
  return files;
}

// By item.
using StateItems = std::map<std::string, std::vector<double>>;

// The state of one sequence. The items of RWKV-4's WKV become what does not depend on the choice of
// the exponent p: a / b, the weighted mean of the values, and log(b e^p), of the sum of the
// weights.
StateItems items_of(const State& state, int64_t slot) {
  const std::vector<double> all = elements(state.slot(slot));
  StateItems items;
  for (const StateItem& item : state.layout().items) {
    const auto begin = all.begin() + item.offset;
    items[item.name] = {begin, begin + item.width};
  }
  for (int64_t l = 0; items.contains(fmt::format("blocks.{}.att.p", l)); ++l) {
    const std::string block = fmt::format("blocks.{}.att.", l);
    std::vector<double>&a = items.at(block + "a"), &b = items.at(block + "b"),
    &p = items.at(block + "p");
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] /= b[i];
      b[i] = std::log(b[i]) + p[i];
    }
    items[block + "mean"] = std::move(a);
    items[block + "log_sum"] = std::move(b);
    for (const char* name : {"a", "b", "p"}) items.erase(block + name);
  }
  return items;
}

struct Outputs {
  std::vector<std::vector<double>> logits;  // of each sequence, after every token
  std::vector<StateItems> states;           // after the last
};

// All sequences in two calls, cut at half their length, with their states in shuffled slots.
Outputs feed_packed(const Model& model, const Golden& golden) {
  const int64_t count = golden.sequences();
  Arena arena(memory_of(model.device()));
  Context ctx;
  ctx.use(model.device(), model.activation_type());
  ctx.pool = &pool();
  ctx.arena = &arena;
  State state(model.state_layout(), count, DType::kF32, model.device());
  const auto slot = [&](int64_t s) { return (s + 2) % count; };
  Outputs outputs;
  outputs.logits.resize(count);
  for (const int half : {0, 1}) {
    arena.reset();
    Batch batch;
    std::vector<int64_t> lengths(count);
    for (int64_t s = 0; s < count; ++s) {
      const auto sequence = golden.sequence(s);
      const size_t middle = sequence.size() / 2;
      const auto part = half == 0 ? sequence.first(middle) : sequence.subspan(middle);
      if (part.empty()) continue;
      batch.add(part, middle > 0 && half == 1 ? slot(s) : -1, slot(s));
      lengths[s] = static_cast<int64_t>(part.size());
    }
    const PlacedBatch placed = place_with_all_logits(batch, model, ctx);
    const Tensor x = model.forward(ctx, placed, {.state_in = &state, .state_out = &state});
    const std::vector<double> logits =
        elements(model.logits(ctx, x, placed.wanted(), placed.wanted_count()));
    auto next = logits.begin();
    for (int64_t s = 0; s < count; ++s) {
      const auto end = next + lengths[s] * model.config().vocabulary;
      outputs.logits[s].insert(outputs.logits[s].end(), next, end);
      next = end;
    }
  }
  for (int64_t s = 0; s < count; ++s) outputs.states.push_back(items_of(state, slot(s)));
  return outputs;
}

// Each sequence by itself.
Outputs feed_alone(const Model& model, const Golden& golden, Way way) {
  Outputs outputs;
  for (int64_t s = 0; s < golden.sequences(); ++s) {
    Session session(model, pool(), way == Way::kDeterministic);
    outputs.logits.push_back(feed(session, golden.sequence(s), way));
    outputs.states.push_back(items_of(session.state(), 0));
  }
  return outputs;
}

// The states after each sequence. With `rounds` the limit is that of bfloat16.
void compare_states(const Golden& golden, const std::vector<StateItems>& states, bool rounds,
                    double limit, Errors& errors) {
  for (const auto& [name, expected] : golden.numbers) {
    if (!name.starts_with("state.")) continue;
    std::vector<double> actual;
    for (const auto& items : states) {
      const std::vector<double>& item = items.at(name.substr(std::string("state.").size()));
      actual.insert(actual.end(), item.begin(), item.end());
    }
    errors.add(name, actual, expected,
               rounds ? kRoundings * golden.numbers.at("rounding." + name)[0] : limit);
  }
}

// `rounds`: activations of this model may be bfloat16 when it is fed this way.
void compare_forward(const Golden& golden, const Model& model, Way way, bool rounds,
                     const std::string& title) {
  const Outputs actual =
      way == Way::kPacked ? feed_packed(model, golden) : feed_alone(model, golden, way);
  Errors errors(golden.name + ", " + title);
  for (int64_t s = 0; s < golden.sequences(); ++s) {
    const double limit =
        rounds ? kRoundings * golden.numbers.at("rounding.logits")[s] : kForwardLimit;
    errors.add(fmt::format("logits of sequence {}", s), actual.logits[s], golden.logits(s), limit);
  }
  compare_states(golden, actual.states, rounds, kForwardLimit, errors);
}

TEST(OwnFiles, EveryGenerationHasBothTypes) {
  std::set<std::string> generations;
  int wide = 0, narrow = 0;
  for (const Golden& golden : own_files()) {
    generations.insert(generation_of(golden.checkpoint));
    ++(golden.stores_bfloat16() ? narrow : wide);
  }
  for (const char* generation : {"4", "5.0", "5.1", "5.2", "6", "7"}) {
    EXPECT_EQ(generations.contains(generation), has_generation(generation)) << generation;
  }
  EXPECT_EQ(wide, static_cast<int>(generations.size()));
  EXPECT_EQ(narrow, wide);
}

TEST(OwnFiles, LogitsAndStates) {
  for (const Golden& golden : own_files()) {
    const Model wide = golden.model(MatrixType::kF32);
    for (const auto& [way, name] : kWays) {
      compare_forward(golden, wide, way, false, fmt::format("CPU, float32, {}", name));
    }
    if (!golden.stores_bfloat16()) continue;
    // Products of a few rows, and deterministic ones, do not round activations.
    const Model narrow = golden.model(MatrixType::kAsStored);
    for (const auto& [way, name] : kWays) {
      const bool rounds = way != Way::kOneByOne && way != Way::kDeterministic;
      compare_forward(golden, narrow, way, rounds, fmt::format("CPU, bfloat16, {}", name));
    }
  }
}

TEST(OwnFiles, LogitsAndStatesOnGpu) {
  const int missed = gpu.missed;
  for (const Golden& golden : own_files()) {
    for (const auto& [way, name] : kWays) {
      gpu.run([&, way = way, name = name] {
        compare_forward(golden, golden.model(MatrixType::kF32).on_gpu(DType::kF32), way, false,
                        fmt::format("GPU, float32, {}", name));
      });
      if (!golden.stores_bfloat16()) continue;
      gpu.run([&, way = way, name = name] {
        compare_forward(golden, golden.model(MatrixType::kAsStored).on_gpu(DType::kBF16), way, true,
                        fmt::format("GPU, bfloat16, {}", name));
      });
    }
  }
  SKIP_IF_MISSED(missed);
}

// The operators' definitions, which all kernels are compared with, against reference.py.
TEST(OwnFiles, DefinitionsInDouble) {
  for (const Golden& golden : own_files()) {
    const Model model = golden.model(MatrixType::kF32).converted(DType::kF64);
    Arena arena;
    Context ctx;
    ctx.device = Device::kRef;
    ctx.dtype = DType::kF64;
    ctx.arena = &arena;
    State state(model.state_layout(), golden.sequences(), DType::kF64);
    Batch batch;
    for (int64_t s = 0; s < golden.sequences(); ++s) batch.add(golden.sequence(s), -1, s);
    const PlacedBatch placed = place_with_all_logits(batch, model, ctx);
    const Tensor x = model.forward(ctx, placed, {.state_out = &state});
    Errors errors(golden.name + ", definitions in double");
    errors.add("logits", elements(model.logits(ctx, x, placed.wanted(), placed.wanted_count())),
               golden.numbers.at("logits"), kExactLimit);
    std::vector<StateItems> states;
    for (int64_t s = 0; s < golden.sequences(); ++s) states.push_back(items_of(state, s));
    compare_states(golden, states, false, kExactLimit, errors);
  }
}

// Gradients of the first step, and of the third, which on a GPU replays a graph: the learning rate
// is too small for the weights to move in between.
void compare_training(const Golden& golden, Device device, DType products,
                      const std::string& title) {
  const auto total = static_cast<int64_t>(golden.tokens.size());
  TrainOptions options;
  options.context = total;
  options.batch = 1;
  options.products = products;
  options.l2wrap = golden.numbers.at("l2wrap")[0];
  options.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-30};
  Trainer trainer(golden.model(MatrixType::kF32), options, pool(), device);
  const TrainingBatch batch{golden.tokens, golden.targets, golden.offsets};
  const bool rounds = products == DType::kBF16;
  Errors errors(golden.name + ", " + title);
  for (int step = 0; step < 3; ++step) {
    const StepResult result = trainer.step(std::span(&batch, 1));
    if (step == 1) continue;
    const double loss = golden.numbers.at("loss")[0];
    errors.add("loss", {result.loss}, {loss},
               rounds ? kRoundings * golden.numbers.at("rounding.logits")[0] : kForwardLimit);
    const auto parameters = trainer.model().parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const std::string name = "gradient." + parameters[i].spec.name;
      const double limit =
          rounds ? kRoundings * golden.numbers.at("rounding." + name)[0] : kGradientLimit;
      errors.add(name, elements(trainer.optimizer().gradient(i)), golden.numbers.at(name), limit);
    }
  }
}

TEST(OwnFiles, Gradients) {
  for (const Golden& golden : own_files()) {
    compare_training(golden, Device::kCpu, DType::kF32, "CPU, float32 training");
    if (!golden.stores_bfloat16()) continue;
    compare_training(golden, Device::kCpu, DType::kBF16, "CPU, bfloat16 training");
  }
}

TEST(OwnFiles, GradientsOnGpu) {
  const int missed = gpu.missed;
  for (const Golden& golden : own_files()) {
    gpu.run([&] { compare_training(golden, Device::kCuda, DType::kF32, "GPU, float32 training"); });
    if (!golden.stores_bfloat16()) continue;
    gpu.run(
        [&] { compare_training(golden, Device::kCuda, DType::kBF16, "GPU, bfloat16 training"); });
  }
  SKIP_IF_MISSED(missed);
}

// ---- The shared folder ----

constexpr double kSharedLimit = 1e-4;  // of a logit

void require_file(const fs::path& path) {
  check(fs::exists(path)) || fail("its pair '{}' is missing", path.filename().string());
}

class SharedFiles : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::is_directory(golden_folder())) {
      GTEST_SKIP() << "SKIPPED: there is no folder " << golden_folder() << " (set ROOKERY_SHARED)";
    }
    for (const auto& entry : fs::directory_iterator(golden_folder())) {
      files_.push_back(entry.path());
    }
    std::sort(files_.begin(), files_.end());
  }

  std::vector<fs::path> files(std::string_view prefix, std::string_view suffix) const {
    std::vector<fs::path> chosen;
    for (const fs::path& file : files_) {
      const std::string name = file.filename().string();
      if (name.starts_with(prefix) && name.ends_with(suffix)) chosen.push_back(file);
    }
    return chosen;
  }

 private:
  std::vector<fs::path> files_;
};

// A model with logits that are known after some of these tokens.
struct KnownLogits {
  std::string name;
  Model model;
  std::vector<int32_t> tokens;
  std::map<int64_t, std::vector<double>> expected;  // by position

  // Those of the known positions, out of all.
  std::vector<double> chosen(const std::vector<double>& logits) const {
    std::vector<double> rows;
    for (const auto& [position, row] : expected) {
      const auto begin = logits.begin() + position * model.config().vocabulary;
      rows.insert(rows.end(), begin, begin + model.config().vocabulary);
    }
    return rows;
  }
  std::vector<double> all_expected() const {
    std::vector<double> rows;
    for (const auto& [position, row] : expected) rows.insert(rows.end(), row.begin(), row.end());
    return rows;
  }
};

KnownLogits reference_checkpoint(const fs::path& json_path, const Json& json) {
  fs::path weights = json_path;
  weights.replace_extension(".pth");
  require_file(weights);
  KnownLogits known{
      json_path.stem().string(),
      model_from_tensors(model_tensors(open_checkpoint(weights)), MatrixType::kAsStored),
      json.at("tokens").get<std::vector<int32_t>>(),
      {}};
  const ModelConfig& config = known.model.config();
  check(config.generation == json.at("generation").get<std::string>() &&
        config.layers == json.at("layers") && config.width == json.at("width") &&
        config.vocabulary == json.at("vocab")) ||
      fail("the checkpoint's sizes are not those of the json");
  for (const auto& [position, logits] : json.at("logits_after_token").items()) {
    known.expected[std::stoll(position)] = logits.get<std::vector<double>>();
  }
  check(!known.expected.empty()) || fail("it expects nothing");
  return known;
}

// The logits after the last token by the definitions in double.
std::vector<double> exact_logits(const Model& model, const std::vector<int32_t>& tokens) {
  const Model exact = model.converted(DType::kF64);
  Arena arena;
  Context ctx;
  ctx.device = Device::kRef;
  ctx.dtype = DType::kF64;
  ctx.arena = &arena;
  Batch batch;
  batch.add(tokens, -1, -1);
  batch.wanted = {static_cast<int32_t>(batch.rows() - 1)};
  const PlacedBatch placed(batch, exact.config().vocabulary, ctx);
  return elements(exact.logits(ctx, exact.forward(ctx, placed, {}), placed.wanted(), 1));
}

KnownLogits trained_model(const fs::path& path, const TensorSource& source) {
  // tiny-rwkv-4v0-660K-FP32.bin goes with expected-logits-4v0-660K.bin.
  std::string stem = path.stem().string().substr(std::string("tiny-rwkv-").size());
  stem.resize(stem.rfind('-'));
  const fs::path logits_path = path.parent_path() / ("expected-logits-" + stem + ".bin");
  require_file(logits_path);
  const MappedFile file(logits_path);
  std::vector<double> expected;
  for (int64_t at = 0; at + 4 <= file.size(); at += 4)
    expected.push_back(load_at<float>(file.bytes(), at));
  KnownLogits known{path.stem().string(),
                    model_from_tensors(model_tensors(source), MatrixType::kF32),
                    {'"', 'i', 'n'},
                    {}};
  // A rounded or quantised file differs from the logits by its rounding: the definition, in double,
  // of the numbers it holds is what we must give.
  if (source.metadata.at("weight_type") != "F32") {
    expected = exact_logits(known.model, known.tokens);
  }
  known.expected[2] = expected;
  return known;
}

class SharedLogits : public SharedFiles {
 protected:
  // Calls `compare` with every model of a generation that is built.
  void for_each_model(const std::function<void(const KnownLogits&)>& compare) const {
    int models = 0;
    for (const fs::path& path : files("ref-", ".json")) {
      SCOPED_TRACE(path);
      const Json json = Json::parse(read_text_file(path));
      if (!has_generation(json.at("generation").get<std::string>())) continue;
      ++models;
      compare(reference_checkpoint(path, json));
    }
    for (const fs::path& path : files("tiny-rwkv-", ".bin")) {
      SCOPED_TRACE(path);
      const TensorSource source = open_checkpoint(path);
      if (!has_generation(generation_of(source))) continue;
      ++models;
      compare(trained_model(path, source));
    }
    EXPECT_GT(models, 0);
  }
};

void compare_logits(const KnownLogits& known, const Model& model, const std::string& place) {
  for (const auto& [way, name] : kWays) {
    if (way == Way::kPacked) continue;
    Session session(model, pool(), way == Way::kDeterministic);
    const double difference =
        largest_difference(known.chosen(feed(session, known.tokens, way)), known.all_expected());
    EXPECT_LE(difference, kSharedLimit) << known.name << ", " << place << ", " << name;
    fmt::print("  {}, {}, {}: largest difference {:.2g}\n", known.name, place, name, difference);
  }
}

TEST_F(SharedLogits, OnCpu) {
  for_each_model([](const KnownLogits& known) { compare_logits(known, known.model, "CPU"); });
}

TEST_F(SharedLogits, OnGpu) {
  const int missed = gpu.missed;
  for_each_model([](const KnownLogits& known) {
    gpu.run([&] { compare_logits(known, known.model.on_gpu(DType::kF32), "GPU, float32"); });
    gpu.run([&] {
      const Model model = known.model.on_gpu(DType::kBF16);
      const std::vector<double> expected = known.all_expected();
      Checker rounding;
      rounding.substitute = true;
      Session rounded(model, pool());
      rounded.context().checker = &rounding;
      const double limit =
          kRoundings *
          relative_error(known.chosen(feed(rounded, known.tokens, Way::kAtOnce)), expected);
      Errors errors(known.name + ", GPU, bfloat16");
      for (const auto& [way, name] : kWays) {
        if (way == Way::kPacked) continue;
        Session session(model, pool(), way == Way::kDeterministic);
        errors.add(name, known.chosen(feed(session, known.tokens, way)), expected, limit);
      }
    });
  });
  SKIP_IF_MISSED(missed);
}

void expect_close(const std::string& what, double actual, double expected, double tolerance,
                  double scale = 0) {
  EXPECT_NEAR(actual, expected, tolerance * std::max(std::abs(expected), scale)) << what;
}

void compare_training_run(const fs::path& json_path, const Json& json, Device device) {
  const fs::path weights =
      json_path.parent_path() / ("ref-v" + json.at("generation").get<std::string>() + ".pth");
  require_file(weights);
  const std::string text = read_text_file(shared_folder() / "data" / "tinyshakespeare.txt");
  const auto length = static_cast<int64_t>(text.size());

  const int64_t batch = json.at("batch"), context = json.at("context");
  const auto losses = json.at("loss").get<std::vector<double>>();
  const auto norms = json.at("grad_norm").get<std::vector<double>>();
  TrainOptions options;
  options.context = context;
  options.batch = batch;
  options.l2wrap = 1e-4;
  options.schedule = {.kind = ScheduleKind::kConstant,
                      .rate = json.at("learning_rate").get<double>()};
  options.optimizer = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-18, .weight_decay = 0, .clip = 1};
  Trainer trainer(model_from_tensors(model_tensors(open_checkpoint(weights)), MatrixType::kF32),
                  options, pool(), device);
  for (size_t step = 0; step < losses.size(); ++step) {
    TrainingBatch data{{}, {}, {0}};
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t start =
          (static_cast<int64_t>(step) * batch + b) * 7919 % (length - (context + 1));
      for (int64_t i = 0; i < context; ++i) {
        data.tokens.push_back(static_cast<unsigned char>(text[start + i]));
        data.targets.push_back(static_cast<unsigned char>(text[start + i + 1]));
      }
      data.offsets.push_back(static_cast<int64_t>(data.tokens.size()));
    }
    const StepResult result = trainer.step(std::span(&data, 1));
    expect_close(fmt::format("loss of step {}", step), result.loss, losses[step], 5e-4);
    expect_close(fmt::format("gradient norm of step {}", step), result.gradient_norm, norms[step],
                 2e-2);
    if (step > 0) continue;
    // The gradients stay as they were before clipping: the optimizer scales while it reads.
    const auto parameters = trainer.model().parameters();
    for (const auto& [name, expected] : json.at("first_gradient_norms").items()) {
      const auto found = std::find_if(parameters.begin(), parameters.end(),
                                      [&](const Parameter& p) { return p.spec.name == name; });
      check(found != parameters.end()) || fail("the model has no '{}'", name);
      expect_close("first gradient norm of " + name,
                   norm(elements(trainer.optimizer().gradient(found - parameters.begin()))),
                   expected.get<double>(), 1e-3, 1e-3 * norms[0]);
    }
  }
  for (const auto& [name, expected] : json.at("final_weight_norms").items()) {
    expect_close("final norm of " + name, norm(elements(trainer.model().parameter(name).value)),
                 expected.get<double>(), 1e-4);
  }
}

class SharedTraining : public SharedFiles {
 protected:
  void for_each_run(const std::function<void(const fs::path&, const Json&)>& compare) const {
    int runs = 0;
    for (const fs::path& path : files("train-", ".json")) {
      SCOPED_TRACE(path);
      const Json json = Json::parse(read_text_file(path));
      if (!has_generation(json.at("generation").get<std::string>())) continue;
      ++runs;
      compare(path, json);
    }
    EXPECT_GT(runs, 0);
  }
};

TEST_F(SharedTraining, OnCpu) {
  for_each_run([](const fs::path& path, const Json& json) {
    compare_training_run(path, json, Device::kCpu);
  });
}

TEST_F(SharedTraining, OnGpu) {
  const int missed = gpu.missed;
  for_each_run([](const fs::path& path, const Json& json) {
    gpu.run([&] { compare_training_run(path, json, Device::kCuda); });
  });
  SKIP_IF_MISSED(missed);
}

// The second half of a pair without the first.
TEST_F(SharedFiles, NoneLacksItsPair) {
  const auto any = [&](const std::string& prefix) { return !files(prefix, "").empty(); };
  for (const fs::path& path : files("ref-", ".pth")) {
    if (!has_generation(generation_of(open_checkpoint(path)))) continue;
    EXPECT_TRUE(any(path.stem().string() + ".json")) << path;
  }
  for (const fs::path& path : files("expected-logits-", ".bin")) {
    const std::string model = path.stem().string().substr(16);
    if (!has_generation(model.substr(0, 1))) continue;
    EXPECT_TRUE(any("tiny-rwkv-" + model + "-")) << path;
  }
}

}  // namespace
}  // namespace rookery
