#include "cli/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "checkpoints/tokenizers.h"
#include "cli/output.h"
#include "core/device.h"
#include "core/threads.h"
#include "io/file.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

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

CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples) {
  CLI::App* verb = app.add_subcommand(name, what);
  verb->formatter(std::make_shared<ExamplesFirst>(examples));
  return verb;
}

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

std::shared_ptr<int> add_threads(CLI::App& verb) {
  auto threads = std::make_shared<int>(0);
  verb.add_option("--threads", *threads, "Threads; 0: one for each physical core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  return threads;
}

int resolve_threads(int threads) { return threads > 0 ? threads : default_threads(); }

std::shared_ptr<std::string> add_device(CLI::App& verb) {
  auto device = std::make_shared<std::string>("auto");
  verb.add_option("--device", *device, "auto: a GPU when one can be used; or cpu, cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))
      ->type_name("DEVICE")
      ->capture_default_str();
  return device;
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

LoadedModel load_on(const std::string& device, const std::string& path, MatrixType type) {
  const Device resolved = resolve_device(device);
  if (resolved == Device::kCuda && type == MatrixType::kF16) {
    wrong_usage("--dtype f16 is not possible on a GPU: expected f32, bf16 or as-stored");
  }
  return load_model(path, type, resolved);
}

std::shared_ptr<std::string> add_tokenizer(CLI::App& verb) {
  auto tokenizer = std::make_shared<std::string>();
  verb.add_option("--tokenizer", *tokenizer,
                  "A vocabulary file, a folder that holds one, or: bytes; else the model's own, or "
                  "one beside the model")
      ->type_name("FILE");
  return tokenizer;
}

std::unique_ptr<Tokenizer> tokenizer_for(const LoadedModel& model, const std::string& flag) {
  std::string missing;
  std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(model, flag, &missing);
  check(tokenizer != nullptr) || fail(
                                     "no tokenizer for '{}': give its vocabulary file with "
                                     "--tokenizer, or put it beside the model: {}",
                                     model.file.string(), missing);
  return tokenizer;
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

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char *at = text.data(), *end = at + text.size();
  while (true) {
    while (at != end && (*at == ' ' || *at == ',' || *at == '\n')) ++at;
    if (at == end) break;
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    check(error == std::errc() && (next == end || *next == ' ' || *next == ',' || *next == '\n')) ||
        fail(
            "'{}' is no token id: expected whole numbers with commas or spaces between, such as "
            "5,3,100",
            printable(std::string(at, std::min<ptrdiff_t>(end - at, 20))));
    ids.push_back(id);
    at = next;
  }
  check(!ids.empty()) || fail("no token ids: expected whole numbers such as 5,3,100");
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
  check(found == sizes.size() && at == end) ||
      fail("'{}' is no shape: expected GENERATION:LAYERS:WIDTH:VOCABULARY, such as 4:12:768:50277",
           text);
  return make_config(text.substr(0, colon), sizes[0], sizes[1], sizes[2]);
}

}  // namespace rookery::cli
