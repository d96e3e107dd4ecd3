// `rookery logits`: the numbers behind the text, for comparing programs.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "inference/sampler.h"
#include "inference/session.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

struct LogitsOptions {
  std::string model;
  std::shared_ptr<Prompt> prompt;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device;
  std::shared_ptr<std::string> tokenizer;
  std::string rows = "last";
  int64_t top = 0;
  bool one_by_one = false, deterministic = false;
};

// Positions, ascending, without repetition.
std::vector<int64_t> parse_rows(const std::string& text, int64_t count) {
  std::vector<int64_t> rows;
  if (text == "last") return {count - 1};
  if (text == "all") {
    rows.resize(count);
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }
  const char *at = text.data(), *end = at + text.size();
  while (true) {
    int64_t row = 0;
    const auto [next, error] = std::from_chars(at, end, row);
    if (error != std::errc() || (next != end && *next != ',')) {
      wrong_usage(
          "--rows: '{}' is no choice of rows: expected last, all or positions such as 0,7,64",
          text);
    }
    if (row < 0 || row >= count) {
      wrong_usage("--rows: there is no row {}: the prompt has {} tokens, rows 0 to {}", row, count,
                  count - 1);
    }
    rows.push_back(row);
    if (next == end) break;
    at = next + 1;
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

// Nine significant digits are the fewest from which every float32 is read back exactly. JSON has no
// word for what is not finite.
std::string exact(float value) {
  return std::isfinite(value) ? fmt::format("{:.9g}", value) : "null";
}

std::string all_logits(std::span<const float> logits) {
  std::string text = "\"logits\":[";
  for (size_t id = 0; id < logits.size(); ++id) {
    if (id > 0) text += ',';
    text += exact(logits[id]);
  }
  return text + "]";
}

std::string best_logits(std::span<const float> logits, int64_t count, const Tokenizer* tokenizer) {
  const std::vector<int64_t> ids = best_tokens(logits, count);
  const double top = std::isnan(logits[ids[0]]) ? -INFINITY : logits[ids[0]];
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - top);
  std::string text = "\"top\":[";
  for (const int64_t id : ids) {
    if (id != ids.front()) text += ',';
    text += fmt::format("{{\"id\":{}", id);
    if (tokenizer != nullptr) {
      text += ",\"text\":" +
              nlohmann::json(printable(tokenizer->bytes_of(static_cast<int32_t>(id)))).dump();
    }
    text += fmt::format(",\"logit\":{},\"log_probability\":{}}}", exact(logits[id]),
                        exact(static_cast<float>(logits[id] - top - std::log(total))));
  }
  return text + "]";
}

int print_logits(const LogitsOptions& options) {
  const LoadedModel loaded = load_on(*options.device, options.model, *options.dtype);
  const ModelConfig& config = loaded.model->config();
  const std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(loaded, *options.tokenizer);
  const std::vector<int32_t> tokens = prompt_ids(*options.prompt, *loaded.model, tokenizer.get());
  const int64_t count = static_cast<int64_t>(tokens.size());
  const std::vector<int64_t> rows = parse_rows(options.rows, count);

  ThreadPool pool(resolve_threads(*options.threads));
  Session session(*loaded.model, pool, options.deterministic);
  bool read = write_output(
      fmt::format("{{\"generation\":\"{}\",\"vocabulary\":{},\"tokens\":[{}],\"rows\":[",
                  config.generation, config.vocabulary, fmt::join(tokens, ",")));
  // Piece by piece, so that the logits of a long prompt need not be in memory together.
  const int64_t piece = options.one_by_one ? 1 : session.chunk();
  auto row = rows.begin();
  for (int64_t begin = 0; begin < count && row != rows.end() && read; begin += piece) {
    const int64_t end = std::min(begin + piece, count);
    const std::span<const int32_t> ids = std::span(tokens).subspan(begin, end - begin);
    std::vector<float> all;
    std::span<const float> last;
    if (*row < end - 1) {
      all = session.feed_all(ids);
    } else {
      last = session.feed(ids);
    }
    for (; row != rows.end() && *row < end && read; ++row) {
      const std::span<const float> logits =
          all.empty()
              ? last
              : std::span(all).subspan((*row - begin) * config.vocabulary, config.vocabulary);
      read = write_output(
          fmt::format("{}{{\"position\":{},{}}}", row == rows.begin() ? "" : ",", *row,
                      options.top > 0 ? best_logits(logits, options.top, tokenizer.get())
                                      : all_logits(logits)));
    }
  }
  if (read) write_output("]}\n");
  return 0;
}

}  // namespace

std::function<int()> add_logits(CLI::App& app) {
  CLI::App* verb = add_verb(app, "logits", "Print a model's logits after a prompt, as JSON",
                            "  rookery logits runs/book -p 'Once upon a time' --top 5\n"
                            "  rookery logits model.pth --ids 1,2,3 --rows all");
  auto options = std::make_shared<LogitsOptions>();
  verb->add_option("MODEL", options->model, "A model file, or the folder of a training run")
      ->required()
      ->type_name("PATH");
  options->prompt = add_prompt(*verb);
  verb->add_option("--rows", options->rows,
                   "After which tokens: last, all or positions such as 0,7,64")
      ->capture_default_str();
  verb->add_option("--top", options->top, "Only so many of the best ids of each row; 0: all logits")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40).description(""))
      ->capture_default_str();
  verb->add_flag("--one-by-one", options->one_by_one,
                 "Read the prompt token by token, as decoding does");
  options->tokenizer = add_tokenizer(*verb);
  options->dtype = add_dtype(*verb);
  options->device = add_device(*verb);
  options->threads = add_threads(*verb);
  verb->add_flag("--deterministic", options->deterministic,
                 "Numbers that do not depend on how the prompt is cut; slower");
  return [options] { return print_logits(*options); };
}

}  // namespace rookery::cli
