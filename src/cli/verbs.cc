#include "cli/verbs.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>

#include "core/cpu_info.h"
#include "io/file.h"
#include "formats/huggingface.h"
#include "text/utf8_stream.h"
#include "tokenizers/bytes.h"
#include "tokenizers/load.h"
#include "training/checkpoint.h"

namespace rookery::cli {
namespace {

std::atomic<int> signals_seen{0};

// Under which names a tokenizer lies in a folder, besides rwkv_vocab_DATE.txt.
constexpr const char* kTokenizerFiles[] = {"tokenizer.json", "20B_tokenizer.json"};

extern "C" void on_signal(int signal) {
  if (signals_seen.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

// Examples before everything else: they are what most readers of a --help look for.
class ExamplesFirst final : public CLI::Formatter {
 public:
  explicit ExamplesFirst(std::string examples) : examples_(std::move(examples)) {}
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    return "Example:\n" + examples_ + "\n\n" + CLI::Formatter::make_help(app, name, mode);
  }

 private:
  std::string examples_;
};

}  // namespace

CLI::Validator at_least(int64_t least) {
  return CLI::Validator(
      [least](std::string& text) {
        int64_t value = 0;
        const char* end = text.data() + text.size();
        const auto [next, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && next == end && value >= least) return std::string();
        return fmt::format("'{}' should be a whole number of at least {}", text, least);
      },
      "");
}

CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->formatter(std::make_shared<ExamplesFirst>(examples));
  return verb;
}

std::shared_ptr<int> add_threads(CLI::App& verb) {
  auto threads = std::make_shared<int>(0);
  verb.add_option("--threads", *threads, "Threads; 0: one for each physical core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  return threads;
}

int resolve_threads(int threads) { return threads > 0 ? threads : default_threads(); }

namespace {

std::filesystem::path only_model_file(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string ending = entry.path().extension().string();
    if (ending == ".pth" || ending == ".safetensors" || ending == ".bin") {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  check(
      !found.empty(),
      "the folder '{}' holds no model: expected config.json and weights of a Hugging Face model, "
      "model.safetensors or checkpoint-*.safetensors of a training run, or one .pth, .safetensors "
      "or .bin file",
      folder);
  constexpr size_t kMostListed = 8;
  std::string list;
  for (size_t i = 0; i < std::min(found.size(), kMostListed); ++i) {
    list += (i == 0 ? "" : ", ") + found[i].filename().string();
  }
  check(found.size() == 1, "the folder '{}' holds {} models ({}{}): name one of them", folder,
        found.size(), list, found.size() > kMostListed ? ", ..." : "");
  return found[0];
}

}  // namespace

std::filesystem::path find_model_file(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return path;
  if (fs::exists(fs::path(path) / kConfigFile)) return path;
  const fs::path whole = fs::path(path) / "model.safetensors";
  const std::vector<fs::path> checkpoints = list_checkpoints(path);
  // A finished run may have gone on since it wrote its model: the later step counts.
  if (fs::exists(whole) &&
      (checkpoints.empty() || step_of_checkpoint(checkpoints.back()) <= step_of_model(whole))) {
    return whole;
  }
  if (!checkpoints.empty()) return checkpoints.back();
  return only_model_file(path);
}

namespace {

// `make` turns the tensors and the epsilons of the norms into a model.
LoadedModel open_model(
    const std::string& path,
    const std::function<Model(std::span<const NamedTensor>, const NormEpsilons&)>& make) {
  LoadedModel loaded;
  loaded.file = find_model_file(path);
  try {
    const TensorSource source = open_checkpoint(loaded.file);
    loaded.format = source.format;
    loaded.metadata = source.metadata;
    loaded.model = std::make_unique<Model>(make(model_tensors(source), source.epsilons));
  } catch (const Error& error) {
    fail("cannot load '{}': {}", loaded.file.string(), error.what());
  }
  return loaded;
}

}  // namespace

LoadedModel load_model(const std::string& path, MatrixType type, Device device) {
  if (device != Device::kCuda) {
    return open_model(path,
                      [type](std::span<const NamedTensor> tensors, const NormEpsilons& epsilons) {
                        return model_from_tensors(tensors, type, epsilons);
                      });
  }
  if (type == MatrixType::kF16) {
    wrong_usage("--dtype f16 is not possible on a GPU: expected f32, bf16 or as-stored");
  }
  return open_model(
      path, [type](std::span<const NamedTensor> tensors, const NormEpsilons& epsilons) {
        const Model model = model_from_tensors(tensors, type, epsilons);
        return model.on_gpu(model.head().value.dtype == DType::kF32 ? DType::kF32 : DType::kBF16);
      });
}

LoadedModel look_at_model(const std::string& path) { return open_model(path, plan_from_tensors); }

std::shared_ptr<std::string> add_tokenizer(CLI::App& verb) {
  auto tokenizer = std::make_shared<std::string>();
  verb.add_option("--tokenizer", *tokenizer,
                  "A vocabulary file, a folder that holds one, or: bytes; else the model's own, or "
                  "one beside the model")
      ->type_name("FILE");
  return tokenizer;
}

namespace {

// The tokenizers in a folder, by the names under which they are published.
std::vector<std::filesystem::path> tokenizers_in(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  std::vector<fs::path> found, vocabularies;
  for (const char* name : kTokenizerFiles) {
    if (fs::exists(folder / name, ignored)) found.push_back(folder / name);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rwkv_vocab") && name.ends_with(".txt")) {
      vocabularies.push_back(entry.path());
    }
  }
  // The names carry dates: the newest first.
  std::sort(vocabularies.rbegin(), vocabularies.rend());
  found.insert(found.end(), vocabularies.begin(), vocabularies.end());
  return found;
}

// The first whose size fits a model; null if there is none. `passed_over` says of each other why.
std::unique_ptr<Tokenizer> first_that_fits(const std::vector<std::filesystem::path>& files,
                                           int64_t vocabulary, std::string& passed_over) {
  // A vocabulary is rounded up for the sake of products, not more.
  constexpr int64_t kMostPadding = 512;
  for (const std::filesystem::path& file : files) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) continue;
    try {
      std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(file);
      const int64_t ids = tokenizer->vocab_size();
      if (ids <= vocabulary && vocabulary < ids + kMostPadding) return tokenizer;
      passed_over += fmt::format("; '{}' has {} ids", file.string(), ids);
    } catch (const Error& error) {
      passed_over += fmt::format("; {}", error.what());
    }
  }
  return nullptr;
}

std::unique_ptr<Tokenizer> named_tokenizer(const std::string& name, int64_t vocabulary) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(name, ignored)) return tokenizer_from(name);
  std::string passed_over;
  std::unique_ptr<Tokenizer> tokenizer =
      first_that_fits(tokenizers_in(name), vocabulary, passed_over);
  check(tokenizer != nullptr,
        "the folder '{}' holds no tokenizer for a model of {} ids: expected tokenizer.json, "
        "20B_tokenizer.json or rwkv_vocab_v20230424.txt{}",
        name, vocabulary, passed_over);
  return tokenizer;
}

std::unique_ptr<Tokenizer> find_any(const LoadedModel& model, const std::string& flag,
                                    std::string& passed_over) {
  const int64_t vocabulary = model.model->config().vocabulary;
  const auto own = model.metadata.find("tokenizer");
  std::unique_ptr<Tokenizer> tokenizer;
  std::string source = flag;
  if (!flag.empty()) {
    tokenizer = named_tokenizer(flag, vocabulary);
  } else if (own != model.metadata.end()) {
    source = fmt::format("the tokenizer in {}", model.file.string());
    tokenizer = parse_tokenizer(own->second, source);
  } else if (vocabulary == 256) {  // no other tokenizer has so few ids
    tokenizer = std::make_unique<ByteTokenizer>();
  } else {
    const std::filesystem::path folder = model.file.parent_path();
    std::vector<std::filesystem::path> files =
        tokenizers_in(folder.empty() ? std::filesystem::path(".") : folder);
    files.insert(files.begin(), folder / (model.file.stem().string() + ".tokenizer.json"));
    tokenizer = first_that_fits(files, vocabulary, passed_over);
  }
  if (tokenizer == nullptr) return nullptr;
  check(
      tokenizer->vocab_size() <= vocabulary,
      "the tokenizer '{}' has {} ids, the model {}: give the tokenizer the model was trained with",
      source, tokenizer->vocab_size(), vocabulary);
  return with_padding_ids(std::move(tokenizer), vocabulary);
}

// Which tokenizer a model of this vocabulary was trained with, and where it is to be had.
std::string expected_tokenizer(int64_t vocabulary) {
  if (vocabulary == 65536) {
    return "a vocabulary of 65536 is RWKV World: rwkv_vocab_v20230424.txt, published in the folder "
           "tokenizer of ChatRWKV and of RWKV-LM, and in the Python package rwkv";
  }
  if (vocabulary >= 50277 && vocabulary <= 50432) {
    return fmt::format(
        "a vocabulary of {} is GPT-NeoX's: 20B_tokenizer.json, published in the folder tokenizer "
        "of ChatRWKV and in the Python package rwkv, or tokenizer.json of EleutherAI/gpt-neox-20b",
        vocabulary);
  }
  return fmt::format("expected the one with about {} ids that the model was trained with",
                     vocabulary);
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from(const std::string& name) {
  if (name == ByteTokenizer::kName) return parse_tokenizer(name, name);
  std::error_code ignored;
  if (!std::filesystem::is_directory(name, ignored)) return load_tokenizer(name);
  const std::vector<std::filesystem::path> files = tokenizers_in(name);
  check(!files.empty(),
        "the folder '{}' holds no tokenizer: expected tokenizer.json, 20B_tokenizer.json or "
        "rwkv_vocab_v20230424.txt",
        name);
  check(files.size() == 1,
        "the folder '{}' holds several tokenizers, such as '{}' and '{}': name one", name,
        files[0].filename().string(), files.back().filename().string());
  return load_tokenizer(files[0]);
}

std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model, const std::string& flag) {
  std::string passed_over;
  return find_any(model, flag, passed_over);
}

std::unique_ptr<Tokenizer> require_tokenizer(const LoadedModel& model, const std::string& flag) {
  std::string passed_over;
  std::unique_ptr<Tokenizer> tokenizer = find_any(model, flag, passed_over);
  check(
      tokenizer != nullptr,
      "no tokenizer for '{}': {}; give its vocabulary file with --tokenizer, or put it beside the "
      "model{}",
      model.file.string(), expected_tokenizer(model.model->config().vocabulary), passed_over);
  return tokenizer;
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
          "'{}' is no token id: expected whole numbers with commas or spaces between, such as "
          "5,3,100",
          printable(std::string(at, std::min<ptrdiff_t>(end - at, 20))));
    ids.push_back(id);
    at = next;
  }
  check(!ids.empty(), "no token ids: expected whole numbers such as 5,3,100");
  return ids;
}

ModelConfig parse_shape(const std::string& text) {
  const size_t colon = text.find(':');
  std::array<int64_t, 3> sizes{};  // layers, width, vocabulary
  size_t found = 0;
  const char *at = text.data() + std::min(colon, text.size()), *end = text.data() + text.size();
  while (found < sizes.size() && at != end && *at == ':') {
    const auto [next, error] = std::from_chars(at + 1, end, sizes[found]);
    if (error != std::errc()) break;
    at = next;
    ++found;
  }
  check(found == sizes.size() && at == end,
        "'{}' is no shape: expected GENERATION:LAYERS:WIDTH:VOCABULARY, such as 4:12:768:50277",
        text);
  return make_config(text.substr(0, colon), sizes[0], sizes[1], sizes[2]);
}

std::shared_ptr<std::string> add_device(CLI::App& verb) {
  auto device = std::make_shared<std::string>("auto");
  verb.add_option("--device", *device, "auto: a GPU when one can be used; or cpu, cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))
      ->type_name("DEVICE")
      ->capture_default_str();
  return device;
}

Device resolve_device(const std::string& name) {
  if (name == "cuda") cuda::require();
  const bool gpu = name == "cuda" || (name == "auto" && cuda::unavailable().empty());
  return gpu ? Device::kCuda : Device::kCpu;
}

std::string describe(Device device) {
  return device == Device::kCuda ? cuda::device_info().name : cpu_info().name;
}

std::shared_ptr<MatrixType> add_dtype(CLI::App& verb) {
  auto type = std::make_shared<MatrixType>(MatrixType::kAsStored);
  const std::map<std::string, MatrixType> types = {{"as-stored", MatrixType::kAsStored},
                                                   {"f32", MatrixType::kF32},
                                                   {"f16", MatrixType::kF16},
                                                   {"bf16", MatrixType::kBF16}};
  verb.add_option_function<std::string>(
          "--dtype", [type, types](const std::string& name) { *type = types.at(name); },
          "Numbers of the matrices in memory: as-stored, f32, f16 or bf16")
      ->check(CLI::IsMember(types).description(""))
      ->type_name("TYPE")
      ->default_str("as-stored");
  return type;
}

bool write_output(std::string_view text) {
  errno = 0;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written && errno == EPIPE) return false;
  check(written, "cannot write to standard output ({}): is the disk full?", std::strerror(errno));
  return true;
}

std::string read_standard_input() {
  std::cin >> std::noskipws;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

std::shared_ptr<Prompt> add_prompt(CLI::App& verb) {
  auto prompt = std::make_shared<Prompt>();
  prompt->text_option = verb.add_option(
      "-p,--prompt", prompt->text, "The text to read; else standard input, if it is no terminal");
  prompt->file_option =
      verb.add_option("--prompt-file", prompt->file, "Read the text from this file")
          ->type_name("FILE");
  prompt->ids_option = verb.add_option("--ids", prompt->ids, "Token ids instead of text: 5,3,100")
                           ->check(parsed_by(parse_ids))
                           ->type_name("LIST");
  prompt->text_option->excludes(prompt->file_option, prompt->ids_option);
  prompt->file_option->excludes(prompt->ids_option);
  return prompt;
}

std::vector<int32_t> prompt_ids(const Prompt& prompt, const Model& model,
                                const Tokenizer* tokenizer) {
  const int64_t vocabulary = model.config().vocabulary;
  if (prompt.ids_option->count() > 0) {
    std::vector<int32_t> ids = parse_ids(prompt.ids);
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocabulary) {
        wrong_usage("--ids: token {} is not in the vocabulary: this model has tokens 0 to {}", id,
                    vocabulary - 1);
      }
    }
    return ids;
  }
  std::string text;
  if (prompt.text_option->count() > 0) {
    text = prompt.text;
  } else if (prompt.file_option->count() > 0) {
    text = read_text_file(prompt.file);
  } else if (isatty(STDIN_FILENO) == 0) {
    text = read_standard_input();
  }
  if (text.empty()) return {0};
  if (tokenizer == nullptr) {
    wrong_usage(
        "no tokenizer: {}; give its vocabulary file with --tokenizer, put it beside the model, or "
        "give the prompt as token ids, --ids 5,3",
        expected_tokenizer(vocabulary));
  }
  return tokenizer->encode(text);
}

std::string printable(std::string_view bytes) {
  Utf8Stream stream;
  const std::string text = stream.push(bytes);
  return text + stream.finish();
}

void handle_signals(void (*handler)(int)) {
  // Beside the thread's own stack: oneDNN's kernels keep numbers where the stack pointer points.
  constexpr size_t kBytes = size_t{256} << 10;
  static std::byte stack[kBytes];
  stack_t there = {};
  sigaltstack(nullptr, &there);
  if ((there.ss_flags & SS_DISABLE) != 0) {
    const stack_t ours = {.ss_sp = stack, .ss_flags = 0, .ss_size = kBytes};
    sigaltstack(&ours, nullptr);
  }
  struct sigaction action = {};
  action.sa_handler = handler;
  // A half-written line goes on being written.
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void catch_signals() { handle_signals(on_signal); }

bool stop_requested() { return signals_seen.load() > 0; }

}  // namespace rookery::cli
