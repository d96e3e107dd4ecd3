#include "data/summary.h"

#include <algorithm>
#include <span>
#include <vector>

#include "core/error.h"
#include "data/loader.h"
#include "data/magic_prime.h"
#include "data/text_pieces.h"

namespace rookery {
namespace {

// Of released models.
constexpr int64_t kContexts[] = {512, 1024, 2048, 4096, 8192};

void add_lengths(const BinIdx& data, PreparedSummary& summary) {
  std::vector<int32_t> lengths(static_cast<size_t>(data.sequences()));
  for (size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = data.size_of_sequence(static_cast<int64_t>(i));
  }
  const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(lengths.size() / 2);
  std::nth_element(lengths.begin(), middle, lengths.end());
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  summary.shortest = *shortest;
  summary.median = *middle;
  summary.longest = *longest;
}

// False if `progress` ended the work.
bool add_ids(TokenSpan tokens, PreparedSummary& summary,
             const std::function<bool(int64_t)>& progress) {
  constexpr int64_t kBlock = int64_t{1} << 22;
  summary.least_id = summary.largest_id = tokens[0];
  for (int64_t begin = 0; begin < tokens.size(); begin += kBlock) {
    if (!progress(begin)) return false;
    const int64_t end = std::min(begin + kBlock, tokens.size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = tokens[i];
      summary.least_id = std::min(summary.least_id, id);
      summary.largest_id = std::max(summary.largest_id, id);
      summary.zeros += id == 0 ? 1 : 0;
    }
  }
  return true;
}

}  // namespace

std::optional<PreparedSummary> summarise(const PreparedData& data,
                                         const std::function<bool(int64_t)>& progress) {
  const TokenSpan tokens = data.tokens.tokens();
  PreparedSummary summary;
  summary.type = tokens.type();
  summary.sequences = data.tokens.sequences();
  summary.documents = data.tokens.documents();
  summary.tokens = tokens.size();
  add_lengths(data.tokens, summary);
  if (!add_ids(tokens, summary, progress)) return std::nullopt;
  const std::span<const uint8_t> mask = data.mask();
  summary.has_mask = !mask.empty();
  summary.learned = tokens.size();
  if (summary.has_mask) {
    summary.learned = std::count(mask.begin(), mask.end(), uint8_t{1});
    const int64_t others =
        tokens.size() - summary.learned - std::count(mask.begin(), mask.end(), uint8_t{0});
    check(others == 0) || fail("'{}' has {} bytes that are neither 0 nor 1: it is not a mask",
                               data.mask_file->path().string(), others);
  }
  return summary;
}

EpochSummary summarise_epoch(int64_t tokens, int64_t context) {
  EpochSummary epoch{.context = context};
  if (tokens > context) {
    epoch.windows = Loader(TokenSpan(nullptr, tokens, TokenType::kU8), {.context = context})
                        .windows_per_epoch();
  }
  for (const int64_t length : kContexts) {
    if (const int64_t prime = magic_prime(tokens, length)) epoch.magic_primes[length] = prime;
  }
  if (const int64_t prime = magic_prime(tokens, context)) {
    epoch.magic_primes[context] = prime;
    epoch.mini_epochs = static_cast<double>(prime) / static_cast<double>(kMiniEpochWindows);
  }
  return epoch;
}

std::string text_of_beginning(TokenSpan tokens, int64_t count, const Tokenizer& tokenizer) {
  std::string text;
  for (int64_t i = 0; i < std::min(count, tokens.size()); ++i) {
    const int64_t id = tokens[i];
    check(id >= 0 && id < tokenizer.vocab_size()) ||
        fail("token {} of the data is {}: the tokenizer '{}' has 0 to {}; is it another one?", i,
             id, tokenizer.name(), tokenizer.vocab_size() - 1);
    text += id == 0 ? kDocumentMark : tokenizer.bytes_of(static_cast<int32_t>(id));
  }
  return text;
}

}  // namespace rookery
