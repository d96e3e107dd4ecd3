#include "cli/verbs.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <iostream>
#include <iterator>

#include "tokenizers/bytes.h"
#include "training/checkpoint.h"

namespace rookery::cli {
namespace {

std::atomic<int> signals_seen{0};

extern "C" void on_signal(int signal) {
  if (signals_seen.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->usage("Example:\n" + examples + "\n\nUsage: rookery " + name + " [OPTIONS]");
  return verb;
}

std::shared_ptr<int> add_threads(CLI::App& verb) {
  auto threads = std::make_shared<int>(0);
  verb.add_option("--threads", *threads, "Threads; 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  return threads;
}

int resolve_threads(int threads) { return threads > 0 ? threads : default_threads(); }

std::filesystem::path find_model_file(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return path;
  const fs::path whole = fs::path(path) / "model.safetensors";
  if (fs::exists(whole)) return whole;
  const std::vector<fs::path> checkpoints = list_checkpoints(path);
  check(!checkpoints.empty(),
        "the folder '{}' holds no model: expected model.safetensors or checkpoint-*.safetensors of a "
        "training run",
        path);
  return checkpoints.back();
}

LoadedModel load_model(const std::string& path, MatrixType type) {
  LoadedModel loaded;
  loaded.file = find_model_file(path);
  try {
    const TensorSource source = open_checkpoint(loaded.file);
    loaded.format = source.format;
    loaded.metadata = source.metadata;
    loaded.model = std::make_unique<Model>(Model::from_tensors(model_tensors(source), type));
  } catch (const Error& error) {
    fail("cannot load '{}': {}", loaded.file.string(), error.what());
  }
  return loaded;
}

std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model) {
  if (model.model->config().vocabulary == 256) return std::make_unique<ByteTokenizer>();
  return nullptr;
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char *at = text.data(), *end = at + text.size();
  while (true) {
    while (at != end && (*at == ' ' || *at == ',' || *at == '\n')) ++at;
    if (at == end) break;
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    check(error == std::errc() && (next == end || *next == ' ' || *next == ',' || *next == '\n'),
          "'{}' is no list of token ids: expected whole numbers with commas or spaces between, such as 5,3,100",
          text);
    ids.push_back(id);
    at = next;
  }
  check(!ids.empty(), "no token ids: expected whole numbers such as 5,3,100");
  return ids;
}

std::string read_standard_input() {
  std::cin >> std::noskipws;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void catch_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

bool stop_requested() { return signals_seen.load() > 0; }

}  // namespace rookery::cli
