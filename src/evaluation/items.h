// Evaluation items from .jsonl files, in two forms:
//   continuation: {"id", "context", "continuation"}
//   choices:      {"id", "context", "choices": [..], "gold"}, or, when the choice is in the
//   context,
//                 {"id", "contexts": [..], "continuation", "gold"}
// The prompt is the context as it stands, and a choice brings its own leading space. "id" may be a
// text, a number or absent; other names are ignored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_pieces.h"

namespace rookery {

enum class ItemForm : uint8_t { kContinuation, kChoices };

struct Item {
  std::string id;                          // without one: the number of its line
  int64_t line = 0;                        // from 1
  std::vector<std::string> contexts;       // one, or one for each choice
  std::vector<std::string> continuations;  // one for each choice, or one
  int64_t gold = 0;                        // index of the right choice

  int64_t choices() const {
    return static_cast<int64_t>(std::max(contexts.size(), continuations.size()));
  }
};

// Without line and, if the object has none, without id. Throws Error that begins with `where` for
// wrong names or types, a gold out of range, fewer than two choices, and empty choices or
// continuations.
Item parse_item(std::string_view line, ItemForm form, const std::string& where);

class ItemReader {
 public:
  // Longer lines are refused; the longest item of the usual sets has 20 KB.
  static constexpr int64_t kMostLineBytes = int64_t{1} << 20;
  static constexpr int64_t kMostChoices = 1000;

  ItemReader(const std::filesystem::path& path, ItemForm form)
      : lines_(path, kMostLineBytes), form_(form) {}

  // False at the end. Empty lines are passed over.
  bool next(Item& item);

 private:
  Lines lines_;
  ItemForm form_;
};

// Reads a file to its end, or for `limit` > 0 so many items, and returns how many there are: a
// wrong line is known before hours of work. Throws Error for a file without items.
int64_t count_items(const std::filesystem::path& path, ItemForm form, int64_t limit);

}  // namespace rookery
