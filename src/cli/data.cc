// `rookery data`: text into prepared tokens, what prepared tokens are, and the windows of a run.

#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/cpu_info.h"
#include "core/timing.h"
#include "data/magic_prime.h"
#include "data/prepare.h"
#include "data/summary.h"
#include "data/training_data.h"
#include "io/file.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"
#include "text/utf8_stream.h"
#include "tokenizers/load.h"
#include "training/run_data.h"
#include "training/windows.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Json epoch_json(const EpochSummary& epoch) {
  Json primes = Json::object();
  for (const auto& [context, prime] : epoch.magic_primes) primes[std::to_string(context)] = prime;
  return {{"context", epoch.context},
          {"windows", epoch.windows},
          {"magic_primes", primes},
          {"mini_epochs", epoch.mini_epochs}};
}

void print_epoch(const EpochSummary& epoch, int64_t tokens) {
  if (epoch.windows == 0) {
    fmt::print("epoch        {} tokens do not fill a window of {}\n", tokens, epoch.context);
    return;
  }
  fmt::print("epoch        {} windows of {} tokens (--context): each token once\n", epoch.windows,
             epoch.context);
  for (const auto& [context, prime] : epoch.magic_primes) {
    fmt::print("magic prime  {:>10} for context {:>5}: {:.2f} mini-epochs of {} windows\n", prime,
               context, static_cast<double>(prime) / static_cast<double>(kMiniEpochWindows),
               kMiniEpochWindows);
  }
}

// JSON of a file's own text, which may be no UTF-8.
int print_json(const Json& json) {
  write_output(json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  return 0;
}

struct PrepareFlags {
  std::vector<std::string> inputs;
  std::string tokenizer, name, form = "world";
  int64_t context = 256;
  bool no_mask = false, skip_invalid = false, force = false, json = false;
  std::shared_ptr<int> threads;
};

int prepare_data(const PrepareFlags& flags) {
  const fs::path name = prepared_name(flags.name).value_or(flags.name);
  for (const fs::path& path : {bin_of(name), idx_of(name), mask_of(name), about_of(name)}) {
    require_new_file(path, flags.force);
  }
  const std::vector<fs::path> inputs(flags.inputs.begin(), flags.inputs.end());
  int64_t total = 0;
  for (const fs::path& input : inputs) {
    std::error_code unknown;  // of a pipe
    const auto size = static_cast<int64_t>(fs::file_size(input, unknown));
    if (!unknown) total += size;
  }
  const std::unique_ptr<Tokenizer> tokenizer = named_tokenizer(flags.tokenizer);
  ThreadPool pool(resolve_threads(*flags.threads));
  // In KiB: the bar counts what it shows.
  Progress progress(stderr, {.title = "prepare", .total = (total + 1023) >> 10});
  catch_signals();
  const Stopwatch watch;
  const std::optional<PrepareResult> result = prepare(
      inputs, name, *tokenizer,
      {.chat = chat_template(flags.form),
       .masked = !flags.no_mask,
       .skip_invalid = flags.skip_invalid},
      pool, [&](const PrepareProgress& done) {
        progress.update((done.bytes_read + 1023) >> 10,
                        fmt::format("KiB  {:.1f} MB/s  {} documents  {} tokens",
                                    static_cast<double>(done.bytes_read) / 1e6 / watch.seconds(),
                                    format_count(static_cast<double>(done.documents)),
                                    format_count(static_cast<double>(done.tokens))));
        return !stop_requested();
      });
  const double seconds = watch.seconds();
  progress.finish();
  check(result.has_value()) || fail("stopped: nothing was written");
  const PreparedAbout& about = result->about;
  const EpochSummary epoch = summarise_epoch(about.tokens, flags.context);
  const double learned = static_cast<double>(about.learned) / static_cast<double>(about.tokens);
  const double per_token = static_cast<double>(about.bytes) / static_cast<double>(about.tokens);
  if (flags.json) {
    Json json = {{"name", name.string()},
                 {"documents", about.documents},
                 {"tokens", about.tokens},
                 {"type", name_of(result->type)},
                 {"bytes", about.bytes},
                 {"bytes_per_token", per_token},
                 {"learned", about.learned},
                 {"mask", result->has_mask},
                 {"largest_id", about.largest_id},
                 {"tokenizer", about.tokenizer_name},
                 {"vocabulary", about.vocabulary},
                 {"invalid_lines", result->invalid},
                 {"epoch", epoch_json(epoch)},
                 {"seconds", seconds},
                 {"peak_memory", process_memory().peak}};
    if (result->invalid > 0) json["first_invalid"] = result->first_invalid;
    return print_json(json);
  }
  if (result->invalid > 0) {
    fmt::print(stderr, "left out {} lines; the first: {}\n", result->invalid,
               result->first_invalid);
  }
  fmt::print("documents    {}\n", about.documents);
  fmt::print("tokens       {} ({}), the end of each document among them\n", about.tokens,
             name_of(result->type));
  fmt::print("bytes        {} of text, {:.3f} per token ({}, {} tokens)\n", about.bytes, per_token,
             about.tokenizer_name, about.vocabulary);
  if (result->has_mask) {
    fmt::print("learned      {} tokens, {:.1f}%: the others are read, but not learned\n",
               about.learned, 100 * learned);
  }
  print_epoch(epoch, about.tokens);
  fmt::print(
      "wrote        {}.bin, .idx, {}.json in {:.1f} s\nTry:         rookery train --data {} "
      "-o runs/{}-model\n",
      name.string(), result->has_mask ? ".mask, " : "", seconds, name.string(),
      name.filename().string());
  return 0;
}

struct InfoFlags {
  std::string name, tokenizer;
  int64_t context = 256, show = 48;
  bool json = false;
};

int data_info(const InfoFlags& flags) {
  const std::optional<fs::path> name = prepared_name(flags.name);
  check(name.has_value()) ||
      fail("'{}' is no prepared data: expected NAME, NAME.bin or NAME.idx of rookery data prepare",
           flags.name);
  const PreparedData data(*name);
  const TokenSpan tokens = data.tokens.tokens();
  catch_signals();
  std::optional<PreparedSummary> summary;
  {
    Progress progress(stderr, {.title = "scanning", .total = tokens.size()});
    summary = summarise(data, [&](int64_t done) {
      progress.update(done);
      return !stop_requested();
    });
  }
  check(summary.has_value()) || fail("stopped");
  const PreparedSummary& s = *summary;
  const EpochSummary epoch = summarise_epoch(s.tokens, flags.context);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!flags.tokenizer.empty()) {
    tokenizer = named_tokenizer(flags.tokenizer);
  } else if (data.about) {
    tokenizer = parse_tokenizer(data.about->tokenizer, about_of(*name).string());
  }
  Json json = {{"name", name->string()},
               {"type", name_of(s.type)},
               {"sequences", s.sequences},
               {"documents", s.documents},
               {"tokens", s.tokens},
               {"lengths", {{"min", s.shortest}, {"median", s.median}, {"max", s.longest}}},
               {"ids", {{"min", s.least_id}, {"max", s.largest_id}}},
               {"zeros", s.zeros},
               {"mask", s.has_mask},
               {"learned", s.learned},
               {"epoch", epoch_json(epoch)}};
  if (data.about) {
    json["bytes"] = data.about->bytes;
    json["tokenizer"] = data.about->tokenizer_name;
    json["vocabulary"] = data.about->vocabulary;
  }
  if (tokenizer != nullptr) {
    json["beginning"] = printable(text_of_beginning(tokens, flags.show, *tokenizer));
  }
  if (flags.json) return print_json(json);
  const auto of_tokens = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(s.tokens);
  };
  fmt::print("sequences    {}, of {} documents\n", s.sequences, s.documents);
  fmt::print("tokens       {} ({}), {} to {} in a sequence, median {}\n", s.tokens, name_of(s.type),
             s.shortest, s.longest, s.median);
  fmt::print("ids          {} to {}, {} of them 0 (ends of documents)\n", s.least_id, s.largest_id,
             s.zeros);
  if (data.about) {
    fmt::print("bytes        {} of text, {:.3f} per token\n", data.about->bytes,
               of_tokens(data.about->bytes));
    fmt::print("tokenizer    {}, {} tokens\n", data.about->tokenizer_name, data.about->vocabulary);
  } else {
    fmt::print("tokenizer    unknown: there is no {}\n", about_of(*name).string());
  }
  if (s.has_mask) {
    fmt::print("learned      {} tokens, {:.1f}%\n", s.learned, 100 * of_tokens(s.learned));
  }
  print_epoch(epoch, s.tokens);
  if (json.contains("beginning")) fmt::print("beginning    {}\n", json["beginning"].dump());
  return 0;
}

struct WindowsFlags {
  DataOptions data;
  TrainOptions options;
  std::string order = "shuffled", output;
  bool force = false, json = false;
  std::shared_ptr<int> threads;
};

int windows_file(WindowsFlags& flags) {
  TrainOptions& options = flags.options;
  options.order = parse_window_order(flags.order);
  require_new_file(flags.output, flags.force);
  ThreadPool pool(resolve_threads(*flags.threads));
  const RunData data(flags.data, choose_tokenizer(flags.data, nullptr), pool);
  const int64_t steps = options.schedule.total_steps;
  Progress progress(stderr, {.title = "windows", .total = steps});
  catch_signals();
  const std::optional<WrittenWindows> written =
      write_windows(flags.output, data, options, [&](int64_t done) {
        progress.update(done);
        return !stop_requested();
      });
  check(written.has_value()) || fail("stopped: nothing was written");
  progress.update(steps);
  progress.finish();
  if (flags.json) {
    return print_json({{"shape", {steps, options.batch, options.context + 1}},
                       {"type", "i32"},
                       {"bytes", written->bytes},
                       {"order", name_of(options.order)},
                       {"magic_prime", written->magic_prime},
                       {"windows_per_epoch", written->windows_per_epoch}});
  }
  fmt::print("windows      {} steps x {} windows x {} tokens (i32)\n", steps, options.batch,
             options.context + 1);
  fmt::print("epoch        {} windows: {:.2f} epochs\n", written->windows_per_epoch,
             static_cast<double>(steps) * static_cast<double>(options.batch) /
                 static_cast<double>(written->windows_per_epoch));
  fmt::print("wrote        {}: {}\n", flags.output,
             format_bytes(static_cast<double>(written->bytes)));
  return 0;
}

std::function<int()> add_prepare(CLI::App& data) {
  CLI::App* verb =
      add_verb(data, "prepare", "Make tokens of text, of any size, for rookery train",
               "  rookery data prepare books/*.txt chats.jsonl --tokenizer vocab.txt -o data/mine");
  auto flags = std::make_shared<PrepareFlags>();
  PrepareFlags& f = *flags;
  verb->add_option("inputs", f.inputs,
                   "Text files, in which a line <|endoftext|> ends a document, and .jsonl files: "
                   "{\"text\": ..}, {\"messages\": [..]} or {\"conversations\": [..]} in each line")
      ->required()
      ->type_name("FILE");
  verb->add_option("--tokenizer", f.tokenizer, "A vocabulary file, or: bytes")
      ->required()
      ->type_name("FILE");
  verb->add_option("-o,--output", f.name, "Writes NAME.bin, NAME.idx, NAME.json, NAME.mask")
      ->required()
      ->type_name("NAME");
  verb->add_option("--template", f.form,
                   "Of conversations: world (User, Assistant), raven (Bob, Alice)")
      ->check(CLI::IsMember({"world", "raven"}).description(""))
      ->type_name("FORM")
      ->capture_default_str();
  verb->add_flag("--no-mask", f.no_mask,
                 "Learn all of a conversation, not the assistant's answers only");
  verb->add_flag("--skip-invalid", f.skip_invalid,
                 "Leave out and count lines of .jsonl files that cannot be used");
  verb->add_option("--context", f.context, "Tokens of a window, for what is reported")
      ->check(at_least(1))
      ->capture_default_str();
  f.threads = add_threads(*verb);
  verb->add_flag("--force", f.force, "Replace NAME if it exists");
  verb->add_flag("--json", f.json, "Report as one JSON object");
  return [flags] { return prepare_data(*flags); };
}

std::function<int()> add_data_info(CLI::App& data) {
  CLI::App* verb = add_verb(data, "info", "What prepared data holds",
                            "  rookery data info data/mine --context 4096");
  auto flags = std::make_shared<InfoFlags>();
  InfoFlags& f = *flags;
  verb->add_option("name", f.name, "NAME, NAME.bin or NAME.idx")->required()->type_name("NAME");
  verb->add_option(
          "--tokenizer", f.tokenizer,
          "Shows the first tokens as text: a vocabulary file, or: bytes (else the one that "
          "the data names)")
      ->type_name("FILE");
  verb->add_option("--show", f.show, "How many of the first tokens")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20).description(""))
      ->capture_default_str();
  verb->add_option("--context", f.context, "Tokens of a window")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_flag("--json", f.json, "Report as one JSON object");
  return [flags] { return data_info(*flags); };
}

std::function<int()> add_windows(CLI::App& data) {
  CLI::App* verb = add_verb(
      data, "windows",
      "Write the windows that a training run sees, step by step, for another program to learn from",
      "  rookery data windows book.txt --context 1024 --batch 16 --steps 200 -o windows.bin\n"
      "The file holds nothing but little-endian 32-bit integers, [steps][batch][context + 1]: the\n"
      "inputs of a window are all of a row but the last, its targets all but the first. A run of\n"
      "rookery train with the same flags reads the same (with --accumulate N, give N times the\n"
      "batch). Ends of documents are tokens 0: whether they empty the state is not in the file.");
  auto flags = std::make_shared<WindowsFlags>();
  WindowsFlags& f = *flags;
  verb->add_option("data", f.data.files, "As rookery train --data: text files, or prepared data")
      ->required()
      ->type_name("FILE");
  verb->add_option("--tokenizer", f.data.tokenizer,
                   "Of text: a vocabulary file, or: bytes. Else bytes")
      ->type_name("FILE");
  verb->add_option("--validation-data", f.data.validation_files,
                   "If the run has it: nothing of the data is held out then");
  verb->add_option("--steps", f.options.schedule.total_steps, "Steps of the run")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31).description(""));
  f.options.batch = 16;
  verb->add_option("--context", f.options.context, "Tokens of a window")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_option("--batch", f.options.batch, "Windows of a step")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_option("--order", f.order, "Of the windows: shuffled, or magic-prime")
      ->check(CLI::IsMember({"shuffled", "magic-prime"}).description(""))
      ->capture_default_str();
  verb->add_option("--magic-prime", f.options.magic_prime,
                   "The magic prime, if not the largest that serves")
      ->check(at_least(2));
  verb->add_option("--seed", f.options.seed, "Of the shuffled order")->capture_default_str();
  CLI::Option* const fraction =
      verb->add_option("--validation-fraction", f.options.validation_fraction,
                       "Part of the data, from its end, that is held out (magic-prime: none)")
          ->capture_default_str();
  f.threads = add_threads(*verb);
  verb->add_option("-o,--output", f.output, "The file")->required()->type_name("FILE");
  verb->add_flag("--force", f.force, "Replace the file if it exists");
  verb->add_flag("--json", f.json, "Report as one JSON object");
  return [flags, fraction] {
    const bool magic = flags->order == "magic-prime";
    if (flags->options.magic_prime > 0 && !magic) {
      wrong_usage("--magic-prime belongs to --order magic-prime");
    }
    if (magic && fraction->count() == 0) flags->options.validation_fraction = 0;
    return windows_file(*flags);
  };
}

}  // namespace

std::function<int()> add_data(CLI::App& app) {
  CLI::App* verb = add_verb(app, "data", "Prepare training data, or look into it",
                            "  rookery data prepare book.txt --tokenizer bytes -o data/book\n"
                            "  rookery data info data/book\n"
                            "  rookery data windows data/book --steps 200 -o windows.bin");
  verb->require_subcommand(1);
  const std::function<int()> prepare = add_prepare(*verb), info = add_data_info(*verb),
                             windows = add_windows(*verb);
  return [verb, prepare, info, windows] {
    if (verb->got_subcommand("prepare")) return prepare();
    return verb->got_subcommand("info") ? info() : windows();
  };
}

}  // namespace rookery::cli
