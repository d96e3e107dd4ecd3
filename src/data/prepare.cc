#include "data/prepare.h"

#include <algorithm>

#include "core/error.h"
#include "data/binidx.h"
#include "data/text_pieces.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// What one task makes into tokens at a time: enough to be worth a hand-over.
constexpr int64_t kTaskBytes = int64_t{1} << 18;
// What is read before the threads begin: with 4 bytes per id and a token per byte at most, a thread
// holds some 10 MiB.
constexpr int64_t kTasksPerThread = 4, kFewestTasks = 8;

// A line, or a piece of a document.
struct Item {
  std::string text;
  bool is_line = false;
  bool ends = false;  // a piece that its document ends with
  size_t file = 0;
  int64_t number = 0;  // of a line
};

// Ids of one task, in runs of one kind.
struct Run {
  int64_t count = 0;
  bool learned = true;
  bool ends = false;  // a document ends behind it
};
struct Encoded {
  std::vector<int32_t> ids;
  std::vector<Run> runs;
  int64_t bytes = 0, invalid = 0, largest = 0;
  std::string first_invalid;
};

class Preparation {
 public:
  Preparation(std::span<const fs::path> inputs, const fs::path& name, const Tokenizer& tokenizer,
              const PrepareOptions& options, ThreadPool& pool,
              const std::function<bool(const PrepareProgress&)>& go_on)
      : inputs_(inputs),
        tokenizer_(tokenizer),
        options_(options),
        pool_(pool),
        go_on_(go_on),
        writer_(name, tokenizer.vocab_size(), options.masked) {}

  std::optional<PrepareResult> run() {
    for (file_ = 0; file_ < inputs_.size(); ++file_) {
      const bool lines = inputs_[file_].extension() == ".jsonl";
      if (!(lines ? read_lines() : read_pieces())) return {};
    }
    if (!work()) return {};
    PreparedAbout& about = result_.about;
    about.documents = writer_.documents();
    about.tokens = writer_.tokens();
    about.learned = writer_.learned();
    about.vocabulary = tokenizer_.vocab_size();
    about.tokenizer_name = tokenizer_.name();
    about.tokenizer = tokenizer_.definition();
    result_.type = writer_.type();
    result_.has_mask = writer_.has_mask();
    std::string text;
    try {
      text = to_json(about).dump(1) + '\n';
    } catch (const Json::exception& error) {
      fail("the tokenizer '{}' cannot be described in JSON ({})", tokenizer_.name(), error.what());
    }
    writer_.commit(text);
    return std::move(result_);
  }

 private:
  bool read_lines() {
    Lines lines(inputs_[file_]);
    for (std::string line; lines.next(line);) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      if (!add({.text = std::move(line), .is_line = true, .file = file_, .number = lines.number()},
               lines.bytes_read())) {
        return false;
      }
    }
    read_before_ += lines.bytes_read();
    return true;
  }

  bool read_pieces() {
    TextPieces pieces(inputs_[file_]);
    std::string piece;
    for (bool ends; pieces.next(piece, ends);) {
      if (!add({.text = std::move(piece), .ends = ends, .file = file_}, pieces.bytes_read())) {
        return false;
      }
    }
    read_before_ += pieces.bytes_read();
    return true;
  }

  bool add(Item item, int64_t bytes_read) {
    if (tasks_.empty() || task_bytes_ >= kTaskBytes) {
      const int64_t most =
          std::max<int64_t>(kFewestTasks, kTasksPerThread * static_cast<int64_t>(pool_.threads()));
      if ((static_cast<int64_t>(tasks_.size()) >= most || batch_bytes_ >= most * kLongestPiece) &&
          !work()) {
        return false;
      }
      tasks_.emplace_back();
      task_bytes_ = 0;
    }
    progress_.bytes_read = read_before_ + bytes_read;
    const auto size = static_cast<int64_t>(item.text.size());
    task_bytes_ += size;
    batch_bytes_ += size;
    tasks_.back().push_back(std::move(item));
    return true;
  }

  // Tokens of all that was read, into the files.
  bool work() {
    std::vector<Encoded> encoded(tasks_.size());
    pool_.run(static_cast<int64_t>(tasks_.size()), [&](int64_t task, int) {
      for (Item& item : tasks_[static_cast<size_t>(task)]) {
        encode(item, encoded[static_cast<size_t>(task)]);
        item.text = {};  // as much is needed again for the ids
      }
    });
    for (const Encoded& part : encoded) {
      std::span<const int32_t> ids = part.ids;
      for (const Run& run : part.runs) {
        writer_.append(ids.first(static_cast<size_t>(run.count)), run.learned);
        ids = ids.subspan(static_cast<size_t>(run.count));
        if (run.ends) writer_.end_document(run.learned);
      }
      result_.about.bytes += part.bytes;
      result_.about.largest_id = std::max(result_.about.largest_id, part.largest);
      if (result_.invalid == 0) result_.first_invalid = part.first_invalid;
      result_.invalid += part.invalid;
    }
    tasks_.clear();
    batch_bytes_ = 0;
    progress_.documents = writer_.documents();
    progress_.tokens = writer_.tokens();
    return go_on_(progress_);
  }

  void encode(const Item& item, Encoded& out) const {
    const size_t ids = out.ids.size(), runs = out.runs.size();
    const int64_t bytes = out.bytes;
    try {
      if (!item.is_line) {
        encode_piece(item.text, out);
        out.runs.push_back({static_cast<int64_t>(out.ids.size() - ids), true, item.ends});
        return;
      }
      const LineDocument document = parse_json_line(item.text, options_.chat);
      for (const TextPiece& piece : document.pieces) {
        const size_t before = out.ids.size();
        encode_piece(piece.text, out);
        out.runs.push_back({static_cast<int64_t>(out.ids.size() - before), piece.learned, false});
      }
      if (!document.pieces.empty()) out.runs.push_back({0, document.end_learned, true});
    } catch (const Error& error) {
      const std::string where =
          item.is_line
              ? fmt::format("{}:{}: {}", inputs_[item.file].string(), item.number, error.what())
              : fmt::format("{}: {}", inputs_[item.file].string(), error.what());
      if (!item.is_line || !options_.skip_invalid) fail("{}", where);
      out.ids.resize(ids);
      out.runs.resize(runs);
      out.bytes = bytes;
      if (out.invalid++ == 0) out.first_invalid = where;
    }
  }

  void encode_piece(std::string_view text, Encoded& out) const {
    const size_t before = out.ids.size();
    tokenizer_.encode_to(text, out.ids);
    for (size_t i = before; i < out.ids.size(); ++i) {
      // Whatever stands in the text, it does not end a document.
      check(out.ids[i] != 0) ||
          fail("the tokenizer '{}' gave the end of a document for text", tokenizer_.name());
      out.largest = std::max<int64_t>(out.largest, out.ids[i]);
    }
    out.bytes += static_cast<int64_t>(text.size());
  }

  std::span<const fs::path> inputs_;
  const Tokenizer& tokenizer_;
  const PrepareOptions& options_;
  ThreadPool& pool_;
  const std::function<bool(const PrepareProgress&)>& go_on_;
  BinIdxWriter writer_;
  std::vector<std::vector<Item>> tasks_;
  int64_t task_bytes_ = 0, batch_bytes_ = 0, read_before_ = 0;
  size_t file_ = 0;
  PrepareProgress progress_;
  PrepareResult result_;
};

}  // namespace

Json to_json(const PreparedAbout& about) {
  return {{"format", 1},
          {"documents", about.documents},
          {"tokens", about.tokens},
          {"learned", about.learned},
          {"bytes", about.bytes},
          {"largest_id", about.largest_id},
          {"vocabulary", about.vocabulary},
          {"tokenizer_name", about.tokenizer_name},
          {"tokenizer", about.tokenizer}};
}

PreparedAbout about_from_json(std::string_view text, std::string_view source) {
  PreparedAbout about;
  try {
    const Json json = Json::parse(text);
    json.at("documents").get_to(about.documents);
    json.at("tokens").get_to(about.tokens);
    json.at("learned").get_to(about.learned);
    json.at("bytes").get_to(about.bytes);
    json.at("largest_id").get_to(about.largest_id);
    json.at("vocabulary").get_to(about.vocabulary);
    json.at("tokenizer_name").get_to(about.tokenizer_name);
    json.at("tokenizer").get_to(about.tokenizer);
  } catch (const Json::exception& error) {
    fail("'{}' cannot be read as a description of prepared data ({}): remove it or prepare again",
         source, std::string_view(error.what()).substr(0, 200));
  }
  check(about.documents > 0 && about.tokens > 0 && about.learned >= 0 &&
        about.learned <= about.tokens && about.bytes >= 0 && about.vocabulary > 0 &&
        about.vocabulary <= int64_t{1} << 31 && about.largest_id >= 0 &&
        about.largest_id < about.vocabulary) ||
      fail("'{}' says what cannot be of the data beside it: remove it or prepare again", source);
  return about;
}

std::optional<PrepareResult> prepare(std::span<const fs::path> inputs, const fs::path& name,
                                     const Tokenizer& tokenizer, const PrepareOptions& options,
                                     ThreadPool& pool,
                                     const std::function<bool(const PrepareProgress&)>& go_on) {
  check(!inputs.empty()) || fail("no text to prepare: name at least one file");
  for (const fs::path& input : inputs) {
    std::error_code error;  // before any work is done
    check(fs::exists(input, error) && !fs::is_directory(input, error)) ||
        fail("expected a file at '{}', found none: check the path", input.string());
    check(input.extension() != ".json") ||
        fail("'{}' is one JSON text: expected .jsonl, a JSON object in each line", input.string());
    check(!prepared_name(input) && input.extension() != ".mask") ||
        fail("'{}' is prepared already: expected text or .jsonl", input.string());
  }
  return Preparation(inputs, name, tokenizer, options, pool, go_on).run();
}

}  // namespace rookery
