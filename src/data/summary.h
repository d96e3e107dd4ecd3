// What prepared data holds, and how many windows a run would see of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "data/token_span.h"
#include "data/training_data.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct PreparedSummary {
  TokenType type = TokenType::kU16;
  int64_t sequences = 0, documents = 0, tokens = 0;
  int32_t shortest = 0, median = 0, longest = 0;  // tokens of a sequence
  int64_t least_id = 0, largest_id = 0;
  int64_t zeros = 0;  // ids 0: ends of documents
  bool has_mask = false;
  int64_t learned = 0;  // tokens; without a mask all
};

// Reads all of the data; `progress` hears how many tokens were looked at, and nothing is returned
// once it returned false. Throws Error for a mask with other bytes than 0 and 1.
std::optional<PreparedSummary> summarise(const PreparedData& data,
                                         const std::function<bool(int64_t tokens_done)>& progress);

// Windows of so many tokens in data of so many.
struct EpochSummary {
  int64_t context = 0;
  int64_t windows = 0;  // of an epoch in shuffled order; 0 if not one fits
  // By context, for this one and those of released models; without those that have none.
  std::map<int64_t, int64_t> magic_primes;
  // Of this context's magic prime, in mini-epochs of RWKV's public training code; 0 if there is
  // none.
  double mini_epochs = 0;
};
EpochSummary summarise_epoch(int64_t tokens, int64_t context);

// The first tokens as text, with <|endoftext|> for ends of documents. Throws Error for ids that the
// tokenizer does not have.
std::string text_of_beginning(TokenSpan tokens, int64_t count, const Tokenizer& tokenizer);

}  // namespace rookery
