#include "evaluation/files.h"

#include <cmath>
#include <system_error>
#include <vector>

#include <fmt/ranges.h>

#include "evaluation/documents.h"
#include "reporting/line_plot.h"
#include "text/utf8_stream.h"

namespace rookery {
namespace {

// Bytes of these files together; 0 if unknown.
int64_t size_of_files(std::span<const std::string> files) {
  int64_t total = 0;
  for (const std::string& file : files) {
    std::error_code error;
    const uintmax_t size = std::filesystem::file_size(file, error);
    if (error || size > static_cast<uintmax_t>(INT64_MAX - total)) return 0;
    total += static_cast<int64_t>(size);
  }
  return total;
}

// Feeds documents until no more are wanted.
void read_documents(std::span<const std::string> files, int64_t limit, Perplexity& perplexity) {
  for (const std::string& file : files) {
    int64_t documents = 0;
    bool begun = false;
    DocumentReader reader(file);
    DocumentPiece piece;
    while (reader.next(piece)) {
      begun = begun || !piece.text.empty();
      bool more = false;
      try {
        more = perplexity.add(piece.text, piece.ends);
      } catch (const Error& error) {
        fail("{}: {}", reader.where(), error.what());
      }
      if (!more) return;
      if (!piece.ends) continue;
      if (begun) ++documents;
      begun = false;
      if (limit > 0 && documents == limit) break;
    }
  }
}

template <class Result>
Result measure_items(const std::filesystem::path& file, ItemForm form, const Tokenizer& tokenizer,
                     Scorer& scorer, const ItemFileOptions& options) {
  Result result;
  const int64_t total = count_items(file, form, options.limit);
  const int64_t read_before = scorer.tokens_read();
  const auto on_item = [&](const ItemScores& scores) {
    result.measure.add(scores);
    if (options.on_item) options.on_item(scores);
  };
  const auto go_on = [&] {
    return !options.on_progress ||
           options.on_progress({result.measure.items(), total, scorer.tokens_read() - read_before});
  };
  score_items(file, form, tokenizer, scorer,
              {.limit = options.limit, .on_item = on_item, .go_on = go_on});
  result.tokens_read = scorer.tokens_read() - read_before;
  result.partial = result.measure.items() < total;
  return result;
}

}  // namespace

PerplexityOfFiles measure_perplexity(std::span<const std::string> files, int64_t limit,
                                     const Model& model, const Tokenizer& tokenizer,
                                     ThreadPool& pool, PerplexityOptions options,
                                     const OnProgress& on_progress,
                                     const std::function<void(const DocumentScore&)>& on_document) {
  PerplexityOfFiles result;
  const bool by_tokens = options.max_tokens > 0;
  const int64_t total = by_tokens ? options.max_tokens : size_of_files(files);
  const Perplexity* running = nullptr;
  bool stopped = false;
  options.go_on = [&] {
    const int64_t done = by_tokens ? running->tokens_predicted() : running->bytes_predicted();
    stopped = on_progress && !on_progress({done, total, running->tokens_read()});
    return !stopped;
  };
  Perplexity perplexity(model, tokenizer, pool, options);
  running = &perplexity;
  perplexity.on_document = on_document;
  read_documents(files, limit, perplexity);
  result.partial = stopped;  // not if it is the last batch, in finish(), that is followed by a stop
  perplexity.finish();
  result.result = perplexity.result();
  result.tokens_read = perplexity.tokens_read();
  check(result.result.tokens > 0 || !result.partial) || fail("interrupted before the first result");
  check(result.result.tokens > 0) || fail("there is no text to predict in {}: expected at least {}",
                                          printable(fmt::format("{}", fmt::join(files, ", "))),
                                          options.start_token ? "one token" : "two tokens");
  return result;
}

std::string loss_by_position_svg(const PerplexityResult& result, std::string_view title) {
  std::vector<PlotPoint> points;
  for (const PositionBin& bin : result.bins) {
    const double middle = std::sqrt(static_cast<double>(bin.first) * static_cast<double>(bin.last));
    points.push_back({middle, bin.nats.value(), bin.nats.error().value_or(0)});
  }
  return line_plot_svg(
      points, {.title = title, .x = "position in the context (tokens)", .y = "nats per token"});
}

LastWordsOfFile measure_last_words(const std::filesystem::path& file, const Tokenizer& tokenizer,
                                   Scorer& scorer, const ItemFileOptions& options) {
  return measure_items<LastWordsOfFile>(file, ItemForm::kContinuation, tokenizer, scorer, options);
}

ChoicesOfFile measure_choices(const std::filesystem::path& file, const Tokenizer& tokenizer,
                              Scorer& scorer, const ItemFileOptions& options) {
  return measure_items<ChoicesOfFile>(file, ItemForm::kChoices, tokenizer, scorer, options);
}

}  // namespace rookery
