#include "benchmarks/tokenizing.h"

#include <algorithm>
#include <string>
#include <vector>

#include "benchmarks/machine_limits.h"
#include "core/error.h"
#include "core/timing.h"

namespace rookery {
namespace {

// As many parts as there are threads; lines stay whole.
std::vector<std::string_view> parts_of(std::string_view text, int threads) {
  std::vector<std::string_view> parts;
  for (int left = threads; left > 1; --left) {
    const size_t line = text.find('\n', text.size() / static_cast<size_t>(left));
    parts.push_back(text.substr(0, line));
    text.remove_prefix(parts.back().size());
  }
  parts.push_back(text);
  return parts;
}

}  // namespace

TokenizingResult measure_tokenizing(std::string_view text, const Tokenizer& tokenizer,
                                    int64_t rounds, int64_t bandwidth_bytes, ThreadPool& pool,
                                    const std::function<bool()>& go_on) {
  check(!text.empty()) || fail("there is no text to measure the tokenizer with");
  const std::vector<std::string_view> parts = parts_of(text, pool.threads());
  const auto tasks = static_cast<int64_t>(parts.size());
  std::vector<std::vector<int32_t>> ids(parts.size());
  std::vector<std::string> decoded(parts.size());
  std::vector<double> encoding, decoding, read;
  // One more, which is not counted, touches the memory.
  for (int64_t round = 0; round <= rounds && (!go_on || go_on()); ++round) {
    read.push_back(measure_read_rate(pool, bandwidth_bytes));
    Stopwatch watch;
    pool.run(tasks, [&](int64_t task, int) {
      ids[task].clear();
      tokenizer.encode_to(parts[task], ids[task]);
    });
    encoding.push_back(watch.restart());
    pool.run(tasks, [&](int64_t task, int) {
      decoded[task].clear();
      for (const int32_t id : ids[task]) decoded[task] += tokenizer.bytes_of(id);
    });
    decoding.push_back(watch.seconds());
  }
  check(!encoding.empty()) || fail("interrupted before the first round");
  if (encoding.size() > 1) {
    encoding.erase(encoding.begin());
    decoding.erase(decoding.begin());
  }
  TokenizingResult result;
  const auto bytes = static_cast<double>(text.size());
  result.rounds = static_cast<int64_t>(encoding.size());
  for (const auto& part : ids) result.tokens += static_cast<int64_t>(part.size());
  result.encode_rate = bytes / median(encoding);
  result.best_encode_rate = bytes / *std::min_element(encoding.begin(), encoding.end());
  result.decode_rate = bytes / median(decoding);
  result.read_bandwidth = median(read);
  return result;
}

}  // namespace rookery
