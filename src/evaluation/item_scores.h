// The items of a file through a scorer. A context and a continuation are encoded separately, each
// as it stands, so that the tokens of a context do not depend on what follows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "evaluation/items.h"
#include "evaluation/scorer.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// An item with its tokens and what the model thinks of it.
struct ItemScores {
  Item item;
  std::vector<std::vector<int32_t>> context_ids;       // of each context, without start token
  std::vector<std::vector<int32_t>> continuation_ids;  // of each continuation
  std::vector<Score> scores;                           // of each choice
};

struct ItemRun {
  int64_t limit = 0;  // 0: all items
  // Called with every item, in order.
  std::function<void(const ItemScores&)> on_item;
  // Asked before each group of items; false ends the work.
  std::function<bool()> go_on = {};
};

// Scores the items of a file and returns how many. Needs memory for a group of items only. Throws
// Error, with file and line, for wrong items.
int64_t score_items(const std::filesystem::path& path, ItemForm form, const Tokenizer& tokenizer,
                    Scorer& scorer, const ItemRun& run);

}  // namespace rookery
