// Real checkpoints with expected numbers. Lists golden_folder() at run time, takes text from
// ../data beside it, and prints one line per file: OK, FAIL or SKIP with its name.
//   ref-G.json + .pth          logits after some tokens, evaluated in float64
//   train-G.json (+ ref-G.pth)  a training run in float64
//   tiny-*.bin + expected-logits-*.bin   trained models of the rwkv.cpp project
// A generation that is not built is a SKIP; a built one that lacks its pair is a FAIL. Ends with 1
// on any FAIL.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "checking/checked_run.h"
#include "io/file.h"
#include "checking/files_for_tests.h"
#include "formats/tensor_source.h"
#include "inference/session.h"
#include "models/detect.h"
#include "models/load.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

struct Skip {
  std::string why;
};

constexpr double kLogitTolerance = 1e-4;

ThreadPool& pool() {
  static ThreadPool threads(default_threads());
  return threads;
}

void require_generation(const std::string& generation) {
  if (!has_generation(generation)) throw Skip{"generation " + generation + " is not built"};
}

void require_file(const fs::path& path) {
  check(fs::exists(path), "its pair '{}' is missing", path.filename().string());
}

// The worst difference of a row of logits. NaN counts as infinite.
double worst_difference(std::span<const float> actual, const std::vector<double>& expected) {
  check(actual.size() == expected.size(), "{} logits, expected {}", actual.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

// All at once, one by one, in pieces, and one by one with reproducible kernels.
double check_logits(const Model& model, const std::vector<int32_t>& tokens,
                    const std::map<int64_t, std::vector<double>>& expected, double tolerance) {
  double worst = 0;
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  const auto compare = [&](const char* way, int64_t position, std::span<const float> row) {
    const auto found = expected.find(position);
    if (found == expected.end()) return;
    const double difference = worst_difference(row, found->second);
    check(difference <= tolerance, "{}: logits after token {} differ by {:.3g}, tolerance {:.1g}",
          way, position, difference, tolerance);
    worst = std::max(worst, difference);
  };
  const auto count = static_cast<int64_t>(tokens.size());
  for (const int64_t piece : {count, int64_t{1}, int64_t{50}}) {
    Session session(model, pool());
    for (int64_t at = 0; at < count; at += piece) {
      const auto part = std::span(tokens).subspan(at, std::min(piece, count - at));
      const std::vector<float> logits = session.feed_all(part);
      for (size_t i = 0; i < part.size(); ++i) {
        compare(piece == count ? "all at once"
                : piece == 1   ? "one by one"
                               : "in pieces of 50",
                at + static_cast<int64_t>(i),
                std::span(logits).subspan(i * vocabulary, vocabulary));
      }
    }
  }
  Session session(model, pool(), /*deterministic=*/true);
  for (int64_t i = 0; i < count; ++i) compare("deterministic", i, session.feed(tokens[i]));
  return worst;
}

// On the processor, and on a GPU in float32 if there is one; there in bfloat16, too, whose rounding
// is reported and bounded loosely.
std::string check_everywhere(const Model& model, const std::vector<int32_t>& tokens,
                             const std::map<int64_t, std::vector<double>>& expected) {
  std::string result = fmt::format("largest difference {:.2g}",
                                   check_logits(model, tokens, expected, kLogitTolerance));
  if (!cuda::unavailable().empty()) return result;
  double largest = 0;
  for (const auto& [position, row] : expected) {
    for (const double logit : row) largest = std::max(largest, std::abs(logit));
  }
  result += fmt::format("; GPU {:.2g}, bfloat16 {:.2g} of logits up to {:.2g}",
                        check_logits(model.on_gpu(DType::kF32), tokens, expected, kLogitTolerance),
                        check_logits(model.on_gpu(DType::kBF16), tokens, expected, 0.05 * largest),
                        largest);
  return result;
}

std::string check_reference(const fs::path& json_path) {
  const nlohmann::json json = nlohmann::json::parse(read_text_file(json_path));
  const std::string generation = json.at("generation");
  require_generation(generation);
  fs::path weights = json_path;
  weights.replace_extension(".pth");
  require_file(weights);
  const Model model =
      model_from_tensors(model_tensors(open_checkpoint(weights)), MatrixType::kAsStored);
  check(model.config().generation == generation && model.config().layers == json.at("layers") &&
            model.config().width == json.at("width") &&
            model.config().vocabulary == json.at("vocab"),
        "the checkpoint's sizes are not those of the json");
  std::map<int64_t, std::vector<double>> expected;
  for (const auto& [position, logits] : json.at("logits_after_token").items()) {
    expected[std::stoll(position)] = logits.get<std::vector<double>>();
  }
  check(!expected.empty(), "it expects nothing");
  return check_everywhere(model, json.at("tokens").get<std::vector<int32_t>>(), expected);
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
  const PlacedBatch placed(batch, exact.config().vocabulary, ctx.device);
  const int64_t last = batch.rows() - 1;
  const Tensor logits = exact.logits(ctx, exact.forward(ctx, placed, {}), std::span(&last, 1));
  return {logits.as<double>(), logits.as<double>() + logits.count()};
}

std::string generation_of(const TensorSource& source) {
  std::vector<TensorInfo> infos;
  for (const StoredTensor& tensor : source.tensors) infos.push_back({tensor.name, tensor.shape});
  return detect_generation(infos);
}

std::string check_tiny(const fs::path& path) {
  // tiny-rwkv-4v0-660K-FP32.bin goes with expected-logits-4v0-660K.bin.
  const TensorSource source = open_checkpoint(path);
  require_generation(generation_of(source));
  std::string stem = path.stem().string().substr(std::string("tiny-rwkv-").size());
  stem.resize(stem.rfind('-'));
  const fs::path logits_path = path.parent_path() / ("expected-logits-" + stem + ".bin");
  require_file(logits_path);
  const MappedFile file(logits_path);
  std::vector<double> expected;
  for (int64_t at = 0; at + 4 <= file.size(); at += 4)
    expected.push_back(load_at<float>(file.bytes(), at));
  const Model model = model_from_tensors(model_tensors(source), MatrixType::kF32);
  const std::vector<int32_t> prompt{'"', 'i', 'n'};
  // A rounded or quantised file differs from the logits by its rounding: the definition, in double,
  // of the numbers it holds is what we must give.
  if (source.metadata.at("weight_type") != "F32") expected = exact_logits(model, prompt);
  return check_everywhere(model, prompt, {{2, expected}});
}

void check_relative(const std::string& what, double actual, double expected, double tolerance,
                    double scale = 0) {
  const double limit = tolerance * std::max(std::abs(expected), scale);
  check(std::abs(actual - expected) <= limit,  // NaN fails
        "{} is {:.9g}, expected {:.9g}: off by {:.2g} of it, tolerance {:.1g}", what, actual,
        expected, std::abs(actual - expected) / std::max(std::abs(expected), scale), tolerance);
}

double norm_of(const TensorView& view) {
  double sum = 0;
  for (const double x : elements(view)) sum += x * x;
  return std::sqrt(sum);
}

std::string check_training_on(const fs::path& json_path, Device device) {
  const nlohmann::json json = nlohmann::json::parse(read_text_file(json_path));
  const std::string generation = json.at("generation");
  require_generation(generation);
  const fs::path weights = json_path.parent_path() / ("ref-v" + generation + ".pth");
  require_file(weights);
  const fs::path text_path = json_path.parent_path() / "../data/tinyshakespeare.txt";
  if (!fs::exists(text_path)) throw Skip{"tinyshakespeare.txt is not there"};
  const std::string text = read_text_file(text_path);
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
    check_relative(fmt::format("loss of step {}", step), result.loss, losses[step], 5e-4);
    check_relative(fmt::format("gradient norm of step {}", step), result.gradient_norm, norms[step],
                   2e-2);
    if (step > 0) continue;
    // The gradients stay as they were before clipping: the optimizer scales while it reads.
    const auto entries = trainer.optimizer().entries();
    for (const auto& [name, expected] : json.at("first_gradient_norms").items()) {
      const auto found = std::find_if(
          entries.begin(), entries.end(),
          [&](const Optimizer::Entry& entry) { return entry.parameter->spec.name == name; });
      check(found != entries.end(), "the model has no '{}'", name);
      const double norm = norm_of(found->gradient);
      check_relative("first gradient norm of " + name, norm, expected.get<double>(), 1e-3,
                     1e-3 * norms[0]);
    }
  }
  for (const auto& [name, expected] : json.at("final_weight_norms").items()) {
    check_relative("final norm of " + name, norm_of(trainer.model().parameter(name).value),
                   expected.get<double>(), 1e-4);
  }
  return fmt::format("{} steps", losses.size());
}

std::string check_training(const fs::path& json_path) {
  std::string result = check_training_on(json_path, Device::kCpu);
  if (cuda::unavailable().empty()) {
    result += "; GPU " + check_training_on(json_path, Device::kCuda);
  }
  return result;
}

// Whether a file that is no test of its own belongs to one that is, or to none at all.
bool has_partner(const fs::path& file, const std::vector<fs::path>& files) {
  const std::string name = file.filename().string(), stem = file.stem().string();
  const auto any = [&](const std::string& prefix) {
    return std::any_of(files.begin(), files.end(), [&](const fs::path& other) {
      return other.filename().string().starts_with(prefix);
    });
  };
  if (name.starts_with("ref-") && name.ends_with(".pth")) return any(stem + ".json");
  if (name.starts_with("expected-logits-")) return any("tiny-rwkv-" + stem.substr(16) + "-");
  return true;
}

// The second half of a pair whose first half is missing.
[[noreturn]] void lonely(const fs::path& file) {
  const std::string name = file.filename().string();
  require_generation(name.ends_with(".pth") ? generation_of(open_checkpoint(file))
                                            : name.substr(16, 1));
  fail("its pair is missing");
}

int run() {
  const fs::path folder = golden_folder();
  if (!fs::is_directory(folder)) {
    fmt::print("SKIP all (there is no folder {})\n", folder.string());
    return 0;
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  int failed = 0, passed = 0, skipped = 0;
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    std::string (*check_file)(const fs::path&) = nullptr;
    if (name.starts_with("ref-") && name.ends_with(".json")) check_file = check_reference;
    if (name.starts_with("train-") && name.ends_with(".json")) check_file = check_training;
    if (name.starts_with("tiny-rwkv-") && name.ends_with(".bin")) check_file = check_tiny;
    if (check_file == nullptr && has_partner(file, files)) continue;
    try {
      if (check_file == nullptr) lonely(file);
      fmt::print("OK {} ({})\n", name, check_file(file));
      ++passed;
    } catch (const Skip& skip) {
      fmt::print("SKIP {} ({})\n", name, skip.why);
      ++skipped;
    } catch (const std::exception& error) {
      fmt::print("FAIL {} {}\n", name, error.what());
      ++failed;
    }
    std::fflush(stdout);
  }
  fmt::print("{} OK, {} FAIL, {} SKIP\n", passed, failed, skipped);
  return failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace rookery

int main() { return rookery::run(); }
