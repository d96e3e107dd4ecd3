// `rookery tokenizer`: makes a tokenizer from text, and shows what one does with text.

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/timing.h"
#include "io/file.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"
#include "text/utf8_stream.h"
#include "tokenizers/bpe.h"
#include "tokenizers/bpe_training.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct TokenizerFlags {
  std::string tokenizer, text, file, ids, output;
  std::vector<std::string> data;
  CLI::Option *text_option = nullptr, *file_option = nullptr, *ids_option = nullptr;
  int64_t vocabulary = 32768, memory = 1024;
  bool json = false, force = false;
};

std::string input_text(const TokenizerFlags& flags) {
  if (flags.text_option->count() > 0) return flags.text;
  return flags.file_option->count() > 0 ? read_text_file(flags.file) : read_standard_input();
}

int encode(const TokenizerFlags& flags) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(flags.tokenizer);
  const std::string text = input_text(flags);
  const std::vector<int32_t> ids = tokenizer->encode(text);
  if (flags.json) {
    Json pieces = Json::array();
    for (const int32_t id : ids) pieces.push_back(printable(tokenizer->bytes_of(id)));
    const Json report = {{"tokenizer", tokenizer->name()},
                         {"bytes", text.size()},
                         {"tokens", ids.size()},
                         {"ids", ids},
                         {"pieces", std::move(pieces)}};
    write_output(report.dump() + "\n");
    return 0;
  }
  std::string line;
  for (const int32_t id : ids) {
    if (!line.empty()) line += ' ';
    line += std::to_string(id);
  }
  write_output(line + "\n");
  return 0;
}

int decode(const TokenizerFlags& flags) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(flags.tokenizer);
  const std::vector<int32_t> ids =
      parse_ids(flags.ids_option->count() > 0    ? flags.ids
                : flags.file_option->count() > 0 ? read_text_file(flags.file)
                                                 : read_standard_input());
  const std::string bytes = tokenizer->decode(ids);
  if (flags.json) {
    const Json report = {{"tokens", ids.size()},
                         {"text", printable(bytes)},
                         {"bytes", std::vector<uint8_t>(bytes.begin(), bytes.end())}};
    write_output(report.dump() + "\n");
  } else {
    write_output(bytes);
  }
  return 0;
}

// Tokens of a file, which may be larger than memory has room for ids.
int64_t count_tokens(const Tokenizer& tokenizer, std::string_view text) {
  constexpr size_t kPart = size_t{16} << 20;
  std::vector<int32_t> ids;
  int64_t count = 0;
  while (!text.empty()) {
    // A line's end is a border of tokens, nearly always.
    const size_t line = text.size() > kPart ? text.find('\n', kPart) : std::string_view::npos;
    const std::string_view part = text.substr(0, line);
    ids.clear();
    tokenizer.encode_to(part, ids);
    count += static_cast<int64_t>(ids.size());
    text.remove_prefix(part.size());
  }
  return count;
}

int info(const TokenizerFlags& flags) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(flags.tokenizer);
  int64_t tokens = 0;
  int32_t longest = 0;
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer->bytes_of(id);
    tokens += bytes.empty() ? 0 : 1;
    if (bytes.size() > tokenizer->bytes_of(longest).size()) longest = id;
  }
  Json special = Json::object({{"0", "end of document"}});
  const auto* bpe = dynamic_cast<const BpeTokenizer*>(tokenizer.get());
  if (bpe != nullptr) {
    for (const auto& [id, name] : bpe->special_tokens()) special[std::to_string(id)] = name;
  }
  Json report = {{"tokenizer", tokenizer->name()},
                 {"vocab_size", tokenizer->vocab_size()},
                 {"tokens_with_bytes", tokens},
                 {"definition_bytes", tokenizer->definition().size()}};
  if (bpe != nullptr) report["merges"] = bpe->merges();
  report["special_tokens"] = special;
  report["longest_token"] = {{"id", longest},
                             {"bytes", tokenizer->bytes_of(longest).size()},
                             {"text", printable(tokenizer->bytes_of(longest))}};
  int64_t bytes = 0, encoded = 0;
  for (const std::string& path : flags.data) {
    const MappedFile file(path);
    encoded += count_tokens(*tokenizer, {reinterpret_cast<const char*>(file.bytes().data()),
                                         static_cast<size_t>(file.size())});
    bytes += file.size();
  }
  if (encoded > 0) {
    report["data"] = {
        {"bytes", bytes},
        {"tokens", encoded},
        {"bytes_per_token", static_cast<double>(bytes) / static_cast<double>(encoded)}};
  }
  if (flags.json) {
    write_output(report.dump(2) + "\n");
    return 0;
  }
  std::string table;
  const auto line = [&](std::string_view name, const std::string& value) {
    table += fmt::format("{:20} {}\n", name, value);
  };
  line("tokenizer", std::string(tokenizer->name()));
  line("ids", std::to_string(tokenizer->vocab_size()));
  line("with bytes", std::to_string(tokens));
  if (bpe != nullptr) line("merges", std::to_string(bpe->merges()));
  for (const auto& [id, name] : special.items())
    line("special token", id + "  " + name.get<std::string>());
  line("longest token",
       fmt::format("{}, {} bytes: {}", longest, tokenizer->bytes_of(longest).size(),
                   Json(printable(tokenizer->bytes_of(longest))).dump()));
  line("its file", format_bytes(static_cast<double>(tokenizer->definition().size())));
  if (encoded > 0) {
    line("text", fmt::format("{} bytes, {} tokens, {:.3f} bytes per token", bytes, encoded,
                             static_cast<double>(bytes) / static_cast<double>(encoded)));
  }
  write_output(table);
  return 0;
}

int train(const TokenizerFlags& flags) {
  require_new_file(flags.output, flags.force);
  AtomicFile file(flags.output);  // a folder that cannot be written is found out before the work
  catch_signals();
  std::optional<Progress> progress;
  std::string phase_shown;
  BpeTrainingOptions options;
  options.vocabulary = flags.vocabulary;
  options.word_memory = flags.memory << 20;
  options.progress = [&](std::string_view phase, int64_t done, int64_t total) {
    if (phase != phase_shown) {
      if (progress) progress->finish();
      phase_shown = phase;
      progress.emplace(stderr, ProgressOptions{.title = phase_shown, .total = total});
    }
    progress->update(done);
    return !stop_requested();
  };
  const Stopwatch watch;
  const std::vector<fs::path> files(flags.data.begin(), flags.data.end());
  const TrainedBpe trained = train_bpe(files, options);
  if (progress) progress->finish();
  file.write(trained.definition.data(), static_cast<int64_t>(trained.definition.size()));
  file.commit();
  const double seconds = watch.seconds();
  if (flags.json) {
    const Json report = {{"output", flags.output},           {"vocab_size", trained.vocabulary},
                         {"bytes", trained.bytes},           {"words", trained.words},
                         {"dropped_words", trained.dropped}, {"seconds", seconds}};
    write_output(report.dump() + "\n");
    return 0;
  }
  fmt::print(
      stderr, "wrote {}: {} ids from {} bytes, {} different words{}, {}\n", flags.output,
      trained.vocabulary, trained.bytes, trained.words,
      trained.dropped > 0 ? fmt::format(" ({} rare ones were dropped)", trained.dropped) : "",
      format_duration(seconds));
  if (trained.vocabulary < flags.vocabulary) {
    fmt::print(stderr, "the text has no more pairs that occur twice: {} ids and not {}\n",
               trained.vocabulary, flags.vocabulary);
  }
  return 0;
}

CLI::App* add_with_tokenizer(CLI::App& verb, const char* name, const char* what,
                             const char* examples, const std::shared_ptr<TokenizerFlags>& flags) {
  CLI::App* sub = add_verb(verb, name, what, examples);
  sub->add_option("TOKENIZER", flags->tokenizer,
                  "A vocabulary file, a model or a folder with one of them, or: bytes")
      ->required()
      ->type_name("PATH");
  sub->add_flag("--json", flags->json, "Report as one JSON object");
  return sub;
}

}  // namespace

std::function<int()> add_tokenizer_verb(CLI::App& app) {
  CLI::App* verb = add_verb(app, "tokenizer", "Make a tokenizer, or try one",
                            "  rookery tokenizer train --data book.txt --vocab 8192 -o "
                            "tokenizer.json\n"
                            "  rookery tokenizer encode rwkv_vocab_v20230424.txt -p 'Once upon'");
  verb->require_subcommand(1);
  auto chosen = std::make_shared<std::vector<
      std::tuple<CLI::App*, int (*)(const TokenizerFlags&), std::shared_ptr<TokenizerFlags>>>>();
  const auto fresh = [] { return std::make_shared<TokenizerFlags>(); };

  auto flags = fresh();
  CLI::App* sub = add_verb(*verb, "train", "Make a byte-level BPE tokenizer from text",
                           "  rookery tokenizer train --data book.txt --vocab 8192 -o "
                           "tokenizer.json");
  sub->add_option("--data", flags->data, "Text files; lines <|endoftext|> end documents")
      ->required()
      ->type_name("FILE");
  sub->add_option("--vocab", flags->vocabulary, "Ids, with the end of a document and the 256 bytes")
      ->check(CLI::Range(int64_t{257}, int64_t{1} << 20).description(""))
      ->capture_default_str();
  sub->add_option("-o,--output", flags->output, "The tokenizer.json to write")
      ->required()
      ->type_name("FILE");
  sub->add_option("--memory", flags->memory,
                  "MB for the table of different words; when it is full, rare ones are dropped")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20).description(""))
      ->capture_default_str();
  sub->add_flag("--force", flags->force, "Replace the file if it exists");
  sub->add_flag("--json", flags->json, "Report as one JSON object");
  chosen->emplace_back(sub, train, flags);

  flags = fresh();
  sub =
      add_with_tokenizer(*verb, "encode", "Text to token ids",
                         "  rookery tokenizer encode tokenizer.json -p 'Once upon a time'", flags);
  flags->text_option = sub->add_option("-p,--prompt", flags->text,
                                       "The text; without it and --file, standard input is read");
  flags->file_option =
      sub->add_option("--file", flags->file, "Read the text from this file")->type_name("FILE");
  flags->text_option->excludes(flags->file_option);
  chosen->emplace_back(sub, encode, flags);

  flags = fresh();
  sub = add_with_tokenizer(*verb, "decode", "Token ids to text",
                           "  rookery tokenizer decode tokenizer.json --ids 5,3,100", flags);
  flags->ids_option =
      sub->add_option("--ids", flags->ids,
                      "The ids, 5,3,100; without them and --file, standard input is read")
          ->check(parsed_by(parse_ids))
          ->type_name("LIST");
  flags->file_option =
      sub->add_option("--file", flags->file, "Read the ids from this file")->type_name("FILE");
  flags->ids_option->excludes(flags->file_option);
  chosen->emplace_back(sub, decode, flags);

  flags = fresh();
  sub = add_with_tokenizer(*verb, "info", "What a tokenizer is, and how well it fits a text",
                           "  rookery tokenizer info tokenizer.json --data book.txt", flags);
  sub->add_option("--data", flags->data, "Text files: bytes per token are counted")
      ->type_name("FILE");
  chosen->emplace_back(sub, info, flags);

  return [chosen] {
    for (const auto& [sub, action, flags] : *chosen) {
      if (sub->parsed()) return action(*flags);
    }
    return 2;
  };
}

}  // namespace rookery::cli
