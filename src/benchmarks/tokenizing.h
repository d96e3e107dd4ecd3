// How fast a tokenizer makes ids of text and text of ids, beside the read bandwidth.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "core/threads.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct TokenizingResult {
  int64_t rounds = 0;  // that were measured
  int64_t tokens = 0;
  // Bytes of text per second; the median of the rounds, and the fastest.
  double encode_rate = 0, best_encode_rate = 0, decode_rate = 0;
  double read_bandwidth = 0;  // bytes per second
};

// Each thread has a part of the text, cut at a line's end, as when a data set is prepared. `go_on`
// is asked before each round; false: no more. Throws Error for an empty text.
TokenizingResult measure_tokenizing(std::string_view text, const Tokenizer& tokenizer,
                                    int64_t rounds, int64_t bandwidth_bytes, ThreadPool& pool,
                                    const std::function<bool()>& go_on = {});

}  // namespace rookery
