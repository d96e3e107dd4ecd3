// `rookery eval`: how well a model predicts text, last words, and right answers among wrong ones.
// What each number means is in docs/evaluation.md.

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/load.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/timing.h"
#include "evaluation/documents.h"
#include "evaluation/files.h"
#include "io/file.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

// What all three measures take.
struct EvalOptions {
  std::string model;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device;
  std::shared_ptr<std::string> tokenizer;
  std::vector<std::string> data;
  std::string per_item;
  int64_t limit = 0;
  int64_t batch_tokens = PackedReaderOptions().batch_tokens;
  bool no_start_token = false, deterministic = false, json = false;

  PackedReaderOptions reading() const {
    return {.batch_tokens = batch_tokens, .deterministic = deterministic};
  }
};

struct PerplexityFlags {
  EvalOptions common;
  bool no_reset = false;
  int64_t context = 0, max_tokens = 0;
  std::vector<int64_t> bins;
  std::string plot;
};

// What an earlier run wrote may be replaced; `begins` and `holds` tell it from files of others.
void check_replaceable(const std::string& path, std::string_view begins, std::string_view holds) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return;
  std::ifstream file(path, std::ios::binary);
  std::string start(4096, '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(file.gcount()));
  check(start.empty() || (start.starts_with(begins) && start.find(holds) != std::string::npos)) ||
      fail("'{}' exists and was not written by rookery eval: choose another name", path);
}

// One JSON object per item, if a file was named. The file appears when all are in it.
class ItemFile {
 public:
  explicit ItemFile(const std::string& path) {
    if (path.empty()) return;
    check_replaceable(path, "{\"file\":", "\"context_ids\":");
    file_.emplace(path);
  }
  explicit operator bool() const { return file_.has_value(); }
  void write(const Json& line) {
    const std::string text = line.dump() + "\n";
    file_->write(text.data(), static_cast<int64_t>(text.size()));
  }
  void commit() {
    if (file_) file_->commit();
  }

 private:
  std::optional<AtomicFile> file_;
};

// The model and what else serves all of a run.
struct Run {
  explicit Run(const EvalOptions& options)
      : items(options.per_item),
        loaded(load_on(*options.device, options.model, *options.dtype)),
        tokenizer(tokenizer_for(loaded, *options.tokenizer)),
        pool(resolve_threads(*options.threads)) {
    catch_signals();
  }
  double seconds() const { return watch.seconds(); }

  ItemFile items;  // first: whether it can be written is known at once
  LoadedModel loaded;
  std::unique_ptr<Tokenizer> tokenizer;
  ThreadPool pool;
  Stopwatch watch;
};

// Shows how far a measure has come, and ends it after a signal.
class Bar {
 public:
  explicit Bar(std::string title) : title_(std::move(title)) {}
  OnProgress callback() {
    return [this](const EvaluationProgress& at) {
      if (!bar_) bar_.emplace(stderr, ProgressOptions{.title = title_, .total = at.total});
      const double rate = static_cast<double>(at.tokens_read) / watch_.seconds();
      bar_->update(at.done, fmt::format("{} tokens/s", format_count(rate)));
      return !stop_requested();
    };
  }
  // Leaves the last line; what is printed next stands below it.
  void end() { bar_.reset(); }

 private:
  std::string title_;
  Stopwatch watch_;
  std::optional<Progress> bar_;
};

Json or_null(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

void put(Json& json, const std::string& name, const Estimate& estimate) {
  json[name] = estimate.value;
  json[name + "_error"] = or_null(estimate.error);
}

// The head of every report.
Json head_of(const char* task, const EvalOptions& options, const Run& run,
             const std::string& prompt, bool partial) {
  return {{"task", task},
          {"model", printable(run.loaded.file.string())},
          {"tokenizer", run.tokenizer->name()},
          {"prompt", prompt},
          {"start_token", !options.no_start_token},
          {"batch_tokens", options.batch_tokens},
          {"deterministic", options.deterministic},
          {"threads", run.pool.threads()},
          {"partial", partial}};
}

void put_speed(Json& json, double seconds, int64_t tokens) {
  json["seconds"] = seconds;
  json["tokens_read"] = tokens;
  json["tokens_per_second"] = static_cast<double>(tokens) / std::max(seconds, 1e-9);
}

std::string row(std::string_view name, const std::string& value) {
  return fmt::format("{:<22}{}\n", fmt::format("{}:", name), value);
}

std::string head_text(const Run& run, const std::string& prompt) {
  return row("Model", printable(run.loaded.file.string())) +
         row("Tokenizer", std::string(run.tokenizer->name())) + row("Prompt", prompt);
}

std::string speed_text(double seconds, int64_t tokens) {
  return row("Time",
             fmt::format("{}, {} tokens read, {} tokens/s", format_duration(seconds),
                         format_count(static_cast<double>(tokens)),
                         format_count(static_cast<double>(tokens) / std::max(seconds, 1e-9))));
}

std::string with_error(const Estimate& estimate) {
  return fmt::format("{:.6g} +- {}", estimate.value,
                     estimate.error ? fmt::format("{:.2g}", *estimate.error) : "?");
}

std::string percent(const Estimate& estimate) {
  return fmt::format("{:.2f} % +- {} %", 100 * estimate.value,
                     estimate.error ? fmt::format("{:.2f}", 100 * *estimate.error) : "?");
}

// What was interrupted is said first and by the exit code.
int finish(Run& run, bool partial, const std::string& report) {
  run.items.commit();
  write_output(report);
  if (partial) fmt::print(stderr, "interrupted: these numbers are of a part of the data only\n");
  return partial ? 1 : 0;
}

std::string start_text(const EvalOptions& options) {
  return options.no_start_token ? "" : "token 0, ";
}

// perplexity

void write_plot(const std::string& path, const PerplexityResult& result, const std::string& title) {
  const std::string svg = loss_by_position_svg(result, title);
  AtomicFile file(path);
  file.write(svg.data(), static_cast<int64_t>(svg.size()));
  file.commit();
}

std::string perplexity_text(const PerplexityResult& r) {
  const char* over = r.error_over_documents ? "documents" : "blocks of 1024 tokens";
  std::string text = row("Documents", fmt::format("{}", r.documents));
  text += row("Tokens", fmt::format("{}", r.tokens));
  text += row("Bytes", fmt::format("{}", r.bytes));
  text += row("Words", fmt::format("{}", r.words));
  text += row("Nats per token", fmt::format("{} (standard error over {})",
                                            with_error({r.nats_per_token(), r.error}), over));
  text += row("Bits per byte", fmt::format("{:.6g}", r.bits_per_byte()));
  text += row("Token perplexity", fmt::format("{:.6g}", r.token_perplexity()));
  text += row("Word perplexity", fmt::format("{:.6g}", r.word_perplexity()));
  text += fmt::format("{:<22}{:>12}  {}\n", "Position", "tokens", "nats per token");
  for (const PositionBin& bin : r.bins) {
    const std::string range = bin.first == bin.last ? fmt::format("{}", bin.first)
                                                    : fmt::format("{}-{}", bin.first, bin.last);
    text += fmt::format("{:<22}{:>12}  {}\n", range, bin.nats.count(),
                        with_error({bin.nats.value(), bin.nats.error()}));
  }
  return text;
}

Json perplexity_json(const PerplexityResult& r) {
  Json json = {{"documents", r.documents},
               {"tokens", r.tokens},
               {"bytes", r.bytes},
               {"words", r.words},
               {"nats", r.nats},
               {"nats_per_token", r.nats_per_token()},
               {"nats_per_token_error", or_null(r.error)},
               {"error_over", r.error_over_documents ? "documents" : "blocks of 1024 tokens"},
               {"bits_per_byte", r.bits_per_byte()},
               {"token_perplexity", r.token_perplexity()},
               {"word_perplexity", r.word_perplexity()}};
  Json& positions = json["positions"] = Json::array();
  for (const PositionBin& bin : r.bins) {
    positions.push_back({{"first", bin.first},
                         {"last", bin.last},
                         {"tokens", bin.nats.count()},
                         {"nats_per_token", bin.nats.value()},
                         {"error", or_null(bin.nats.error())}});
  }
  return json;
}

int eval_perplexity(const PerplexityFlags& flags) {
  const EvalOptions& common = flags.common;
  PerplexityOptions options{.reset = !flags.no_reset,
                            .context = flags.context,
                            .max_tokens = flags.max_tokens,
                            .start_token = !common.no_start_token,
                            .bins = flags.bins,
                            .reading = common.reading()};
  or_wrong_usage([&] { validate(options); });
  // Missing files are known before the model is read.
  check_replaceable(flags.plot, "<svg", "");
  for (const std::string& file : common.data) DocumentReader{file};
  Run run(common);
  Bar bar("eval");
  int64_t document = 0;
  std::function<void(const DocumentScore&)> on_document;
  if (run.items) {
    on_document = [&](const DocumentScore& score) {
      run.items.write({{"document", document++},
                       {"tokens", score.tokens},
                       {"bytes", score.bytes},
                       {"words", score.words},
                       {"nats", score.nats}});
    };
  }
  const PerplexityOfFiles measured =
      measure_perplexity(common.data, common.limit, *run.loaded.model, *run.tokenizer, run.pool,
                         options, bar.callback(), on_document);
  bar.end();
  const double seconds = run.seconds();
  const PerplexityResult& result = measured.result;
  const bool partial = measured.partial;

  const std::string prompt = fmt::format(
      "{}{}; {}", start_text(common), flags.context > 0 ? "windows of a document" : "document",
      flags.no_reset ? "the state goes on through all documents"
      : flags.context > 0
          ? fmt::format("the state is empty at every {} tokens of a document", flags.context)
          : std::string("the state is empty before each document"));
  if (!flags.plot.empty()) {
    write_plot(flags.plot, result, "Loss by position, " + printable(common.model));
  }
  if (common.json) {
    Json json = head_of("perplexity", common, run, prompt, partial);
    Json& files = json["data"] = Json::array();
    for (const std::string& file : common.data) files.push_back(printable(file));
    json["context"] = flags.context;
    json["reset"] = !flags.no_reset;
    json.update(perplexity_json(result));
    put_speed(json, seconds, measured.tokens_read);
    return finish(run, partial, json.dump() + "\n");
  }
  std::string text = partial ? "PARTIAL\n" : "";
  text += head_text(run, prompt) + perplexity_text(result);
  return finish(run, partial, text + speed_text(seconds, measured.tokens_read));
}

// Items

std::string title_of(const std::string& file) {
  return std::filesystem::path(file).stem().string();
}

ScorerOptions scorer_options(const EvalOptions& options) {
  return {.start_token = !options.no_start_token, .reading = options.reading()};
}

// What both forms of item say of themselves.
Json item_json(const std::string& file, const ItemScores& scores) {
  return {{"file", printable(file)},
          {"line", scores.item.line},
          {"id", scores.item.id},
          {"context_ids", scores.context_ids},
          {"continuation_ids", scores.continuation_ids}};
}

int eval_last_words(const EvalOptions& options) {
  const std::string& file = options.data.front();
  DocumentReader{file};
  Run run(options);
  Scorer scorer(*run.loaded.model, run.pool, scorer_options(options));
  Bar bar(title_of(file));
  const LastWordsOfFile measured = measure_last_words(file, *run.tokenizer, scorer,
                                                      {.limit = options.limit,
                                                       .on_progress = bar.callback(),
                                                       .on_item = [&](const ItemScores& scores) {
                                                         if (!run.items) return;
                                                         const Score& score = scores.scores.front();
                                                         Json json = item_json(file, scores);
                                                         json["log_probability"] =
                                                             score.log_probability;
                                                         json["tokens"] = score.tokens;
                                                         json["greedy"] = score.greedy;
                                                         run.items.write(json);
                                                       }});
  bar.end();
  const LastWord& measure = measured.measure;
  const bool partial = measured.partial;
  check(measure.items() > 0) || fail("interrupted before the first result");
  const double seconds = run.seconds();
  const std::string prompt = start_text(options) + "context | continuation";
  if (options.json) {
    Json json = head_of("lambada", options, run, prompt, partial);
    json["data"] = printable(file);
    json["items"] = measure.items();
    json["continuation_tokens"] = measure.tokens();
    put(json, "accuracy", measure.accuracy());
    put(json, "perplexity", measure.perplexity());
    put(json, "token_perplexity", measure.token_perplexity());
    put_speed(json, seconds, measured.tokens_read);
    return finish(run, partial, json.dump() + "\n");
  }
  std::string text = partial ? "PARTIAL\n" : "";
  text += head_text(run, prompt);
  text += row("Data", printable(file));
  text += row("Items", fmt::format("{}", measure.items()));
  text += row("Accuracy", percent(measure.accuracy()) + " (greedy, all tokens right)");
  text += row("Perplexity", with_error(measure.perplexity()) + " (per item)");
  text += row("Token perplexity", with_error(measure.token_perplexity()) +
                                      fmt::format(" ({} tokens)", measure.tokens()));
  return finish(run, partial, text + speed_text(seconds, measured.tokens_read));
}

Json choice_json(const std::string& file, const ItemScores& scores) {
  const Prediction prediction = predict(scores);
  Json json = item_json(file, scores);
  Json &log_probabilities = json["log_probabilities"] = Json::array(),
       &tokens = json["tokens"] = Json::array();
  for (const Score& score : scores.scores) {
    log_probabilities.push_back(score.log_probability);
    tokens.push_back(score.tokens);
  }
  json["prediction"] = prediction.choice;
  json["prediction_norm"] = prediction.choice_norm;
  json["gold"] = scores.item.gold;
  return json;
}

int eval_choices(const EvalOptions& options) {
  // Wrong items of any file are known before the first is scored.
  for (const std::string& file : options.data) {
    count_items(file, ItemForm::kChoices, options.limit);
  }
  Run run(options);
  Scorer scorer(*run.loaded.model, run.pool, scorer_options(options));
  const std::string prompt = start_text(options) + "context | choice";
  bool partial = false;
  Json tasks = Json::array();
  std::string text;
  for (const std::string& file : options.data) {
    const Stopwatch watch;
    Bar bar(title_of(file));
    const ChoicesOfFile measured = measure_choices(file, *run.tokenizer, scorer,
                                                   {.limit = options.limit,
                                                    .on_progress = bar.callback(),
                                                    .on_item = [&](const ItemScores& scores) {
                                                      if (run.items)
                                                        run.items.write(choice_json(file, scores));
                                                    }});
    bar.end();
    const MultipleChoice& measure = measured.measure;
    partial = measured.partial;
    if (measure.items() == 0) break;
    const double seconds = watch.seconds();
    const std::optional<Estimate> norm = measure.accuracy_norm();
    Json task = {{"data", printable(file)},
                 {"items", measure.items()},
                 {"partial", partial},
                 {"chance", measure.chance()}};
    put(task, "acc", measure.accuracy());
    if (norm) put(task, "acc_norm", *norm);
    task["ties"] = measure.ties();
    put_speed(task, seconds, measured.tokens_read);
    tasks.push_back(task);
    text += row("Data", printable(file) + (partial ? " (PARTIAL)" : ""));
    text += row("  Items", fmt::format("{}", measure.items()));
    text += row("  Chance", fmt::format("{:.2f} %", 100 * measure.chance()));
    text += row("  acc", percent(measure.accuracy()));
    if (norm) text += row("  acc_norm", percent(*norm));
    if (measure.ties() > 0) {
      text += row("  Ties", fmt::format("{}: the first choice counts", measure.ties()));
    }
    text += "  " + speed_text(seconds, measured.tokens_read);
    if (partial) break;
  }
  check(!tasks.empty()) || fail("interrupted before the first result");
  if (options.json) {
    Json json = head_of("choices", options, run, prompt, partial);
    json["tasks"] = tasks;
    put_speed(json, run.seconds(), scorer.tokens_read());
    return finish(run, partial, json.dump() + "\n");
  }
  return finish(run, partial, (partial ? "PARTIAL\n" : "") + head_text(run, prompt) + text);
}

// Flags

void add_common(CLI::App& verb, EvalOptions& options, const char* data, bool several,
                const char* items) {
  verb.add_option("MODEL", options.model, "A model file, or the folder of a training run")
      ->required()
      ->type_name("PATH");
  CLI::Option* const files = verb.add_option("--data", options.data, data)->required();
  if (several) {
    files->type_name("FILE");
  } else {
    files->expected(1)->type_name("FILE");
  }
  verb.add_option("--limit", options.limit,
                  fmt::format("Only the first N {} of a file; 0: all", items))
      ->check(at_least(0))
      ->type_name("N")
      ->capture_default_str();
  verb.add_option("--per-item", options.per_item,
                  fmt::format("Write the numbers of each of the {} into this .jsonl file", items))
      ->type_name("FILE");
  verb.add_flag("--no-start-token", options.no_start_token,
                "Do not put token 0, the end of a document, before a text");
  verb.add_option("--batch-tokens", options.batch_tokens,
                  "Tokens that are read at once; more need more memory")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20).description(""))
      ->capture_default_str();
  options.tokenizer = add_tokenizer(verb);
  options.dtype = add_dtype(verb);
  options.device = add_device(verb);
  options.threads = add_threads(verb);
  verb.add_flag("--deterministic", options.deterministic,
                "Numbers that do not depend on what else is in a batch; slower");
  verb.add_flag("--json", options.json, "One JSON object instead of text");
}

// "1,128,1024": the first positions of the bins; 1 may be left out.
std::vector<int64_t> parse_bins(const std::string& text) {
  const std::vector<int32_t> numbers = parse_ids(text);
  std::vector<int64_t> bins(numbers.begin(), numbers.end());
  if (bins.front() > 1) bins.insert(bins.begin(), 1);
  validate(PerplexityOptions{.bins = bins});
  return bins;
}

}  // namespace

std::function<int()> add_eval(CLI::App& app) {
  const std::string of_text = "  rookery eval perplexity runs/book --data test.txt --plot loss.svg",
                    of_words = "  rookery eval lambada runs/book --data lambada_test.jsonl",
                    of_choices = "  rookery eval choices runs/book --data piqa.jsonl copa.jsonl";
  CLI::App* verb = add_verb(app, "eval", "Measure how well a model predicts text and answers",
                            of_text + "\n" + of_words + "\n" + of_choices);
  verb->require_subcommand(1);

  CLI::App* text = add_verb(
      *verb, "perplexity", "Loss, bits per byte, perplexities, and loss by position, of text",
      of_text + "\n  rookery eval perplexity runs/book --data test.jsonl --context 1024 --json");
  auto flags = std::make_shared<PerplexityFlags>();
  add_common(*text, flags->common,
             "Text files, where a line <|endoftext|> ends a document, or .jsonl files of "
             "{\"text\": ...}",
             true, "documents");
  text->add_option("--context", flags->context,
                   "Cut documents into windows of N tokens, as in training; 0: whole documents")
      ->check(at_least(0))
      ->type_name("N")
      ->capture_default_str();
  text->add_flag("--no-reset", flags->no_reset, "Keep the state from one document to the next");
  text->add_option("--max-tokens", flags->max_tokens, "Predict at most N tokens; 0: all")
      ->check(at_least(0))
      ->type_name("N")
      ->capture_default_str();
  text->add_option_function<std::string>(
          "--bins", [flags](const std::string& list) { flags->bins = parse_bins(list); },
          "First positions of the bins of loss by position: 1,128,1024; else powers of two")
      ->check(parsed_by(parse_bins))
      ->type_name("LIST");
  text->add_option("--plot", flags->plot, "Draw the loss by position into this .svg file")
      ->type_name("FILE");

  CLI::App* words = add_verb(
      *verb, "lambada", "Accuracy and perplexity of the one right continuation",
      of_words + "\n  rookery eval lambada runs/book --data test.jsonl --per-item out.jsonl");
  auto word_options = std::make_shared<EvalOptions>();
  add_common(*words, *word_options, "A .jsonl file of {\"context\", \"continuation\"}", false,
             "items");

  CLI::App* choices = add_verb(
      *verb, "choices", "Accuracy in choosing the right answer",
      of_choices + "\n  rookery eval choices runs/book --data piqa.jsonl --limit 100 --json");
  auto choice_options = std::make_shared<EvalOptions>();
  add_common(*choices, *choice_options,
             ".jsonl files of {\"context\", \"choices\", \"gold\"} or {\"contexts\", "
             "\"continuation\", \"gold\"}",
             true, "items");

  return [=] {
    if (text->parsed()) return eval_perplexity(*flags);
    if (words->parsed()) return eval_last_words(*word_options);
    return eval_choices(*choice_options);
  };
}

}  // namespace rookery::cli
