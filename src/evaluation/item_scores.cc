#include "evaluation/item_scores.h"

namespace rookery {
namespace {

// A group is closed when it has so many times the tokens of a batch: enough that a last batch that
// is not full costs little, few enough that one may interrupt.
constexpr int64_t kBatchesOfGroup = 8;

std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text,
                            const std::string& where) {
  try {
    return tokenizer.encode(text);
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
}

// Items whose questions are to be scored together.
struct Group {
  std::vector<Item> items;
  std::vector<Question> questions;  // one for each context of each item
  int64_t tokens = 0;

  void add(Item item, const Tokenizer& tokenizer, bool start_token, const std::string& where) {
    std::vector<std::vector<int32_t>> continuations;
    for (const std::string& text : item.continuations) {
      continuations.push_back(encode(tokenizer, text, where));
      check(!continuations.back().empty()) ||
          fail("{}: '{}' encodes to no tokens: there is nothing to score", where, text);
      tokens += static_cast<int64_t>(continuations.back().size());
    }
    for (const std::string& text : item.contexts) {
      questions.push_back({encode(tokenizer, text, where), continuations});
      tokens += static_cast<int64_t>(questions.back().context.size());
      check(start_token || !questions.back().context.empty()) ||
          fail("{}: an empty context, and no start token: nothing predicts what follows", where);
    }
    items.push_back(std::move(item));
  }
};

void score_group(Group& group, Scorer& scorer, const ItemRun& run) {
  const std::vector<std::vector<Score>> scores = scorer.score(group.questions);
  size_t q = 0;
  for (Item& item : group.items) {
    ItemScores result;
    result.continuation_ids = group.questions[q].continuations;
    for (size_t c = 0; c < item.contexts.size(); ++c, ++q) {
      result.context_ids.push_back(std::move(group.questions[q].context));
      result.scores.insert(result.scores.end(), scores[q].begin(), scores[q].end());
    }
    result.item = std::move(item);
    run.on_item(result);
  }
}

}  // namespace

int64_t score_items(const std::filesystem::path& path, ItemForm form, const Tokenizer& tokenizer,
                    Scorer& scorer, const ItemRun& run) {
  ItemReader reader(path, form);
  const int64_t most_tokens = kBatchesOfGroup * scorer.options().reading.batch_tokens;
  int64_t done = 0;
  bool more = true;
  while (more && (!run.go_on || run.go_on())) {
    Group group;
    Item item;
    while (static_cast<int64_t>(group.questions.size()) < scorer.slots() &&
           group.tokens < most_tokens) {
      more = (run.limit == 0 || done + static_cast<int64_t>(group.items.size()) < run.limit) &&
             reader.next(item);
      if (!more) break;
      const std::string where = fmt::format("{}:{}", path.string(), item.line);
      group.add(std::move(item), tokenizer, scorer.options().start_token, where);
    }
    score_group(group, scorer, run);
    done += static_cast<int64_t>(group.items.size());
  }
  return done;
}

}  // namespace rookery
