// The measures over whole files: what a program calls that wants the numbers, and how far the work
// has come.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "evaluation/item_scores.h"
#include "evaluation/last_word.h"
#include "evaluation/multiple_choice.h"
#include "evaluation/perplexity.h"

namespace rookery {

struct EvaluationProgress {
  int64_t done = 0;   // items; or bytes of text, or tokens of the most that are wanted
  int64_t total = 0;  // 0: unknown
  int64_t tokens_read = 0;
};
// Called after every forward, or before every group of items. False ends the work: what was read
// until then counts.
using OnProgress = std::function<bool(const EvaluationProgress&)>;

struct PerplexityOfFiles {
  PerplexityResult result;
  int64_t tokens_read = 0;
  bool partial = false;  // `on_progress` ended the work
};
// The documents of text or .jsonl files (evaluation/documents.h), of each file the first `limit`;
// 0: all. `options.go_on` is not asked. Throws Error for options that cannot be, for text that the
// tokenizer cannot express, with its place, and if nothing was predicted.
PerplexityOfFiles measure_perplexity(
    std::span<const std::string> files, int64_t limit, const Model& model,
    const Tokenizer& tokenizer, ThreadPool& pool, PerplexityOptions options,
    const OnProgress& on_progress = {},
    const std::function<void(const DocumentScore&)>& on_document = {});

// Loss by position as an SVG. Throws Error if there are no tokens.
std::string loss_by_position_svg(const PerplexityResult& result, std::string_view title);

// What the measures of items take. Numbers are added up item by item, so any file fits into memory.
struct ItemFileOptions {
  int64_t limit = 0;  // the first items of the file; 0: all
  OnProgress on_progress = {};
  std::function<void(const ItemScores&)> on_item = {};
};

struct LastWordsOfFile {
  LastWord measure;
  int64_t tokens_read = 0;
  bool partial = false;
};
// A .jsonl file of continuations (evaluation/items.h). The whole file is read for errors before the
// first item is scored: throws Error with file and line. No item may have been scored if the work
// is partial.
LastWordsOfFile measure_last_words(const std::filesystem::path& file, const Tokenizer& tokenizer,
                                   Scorer& scorer, const ItemFileOptions& options = {});

struct ChoicesOfFile {
  MultipleChoice measure;
  int64_t tokens_read = 0;
  bool partial = false;
};
// The same of a .jsonl file of choices.
ChoicesOfFile measure_choices(const std::filesystem::path& file, const Tokenizer& tokenizer,
                              Scorer& scorer, const ItemFileOptions& options = {});

}  // namespace rookery
