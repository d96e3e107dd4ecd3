#include "evaluation/perplexity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace rookery {
namespace {

constexpr int64_t kMostPosition = int64_t{1} << 62;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

void validate(const PerplexityOptions& o) {
  check(o.context >= 0 && o.max_tokens >= 0) ||
      fail("context {} and most tokens {} should not be negative", o.context, o.max_tokens);
  check(o.reset || o.context == 0) ||
      fail(
          "windows of {} tokens start from the empty state: a state that goes on from document to "
          "document does not go with them",
          o.context);
  if (o.bins.empty()) return;
  check(o.bins.size() <= 10000) ||
      fail("{} bins of positions: expected at most 10000", o.bins.size());
  check(o.bins.front() == 1) ||
      fail("the first bin begins at position {}: expected 1, the first token", o.bins.front());
  for (size_t i = 1; i < o.bins.size(); ++i) {
    check(o.bins[i] > o.bins[i - 1] && o.bins[i] <= kMostPosition) ||
        fail("the bins of positions should ascend: {} stands before {}", o.bins[i - 1], o.bins[i]);
  }
}

double PerplexityResult::bits_per_byte() const {
  return nats / (static_cast<double>(bytes) * std::numbers::ln2);
}
double PerplexityResult::token_perplexity() const { return std::exp(nats_per_token()); }
double PerplexityResult::word_perplexity() const {
  return std::exp(nats / static_cast<double>(words));
}

Perplexity::Perplexity(const Model& model, const Tokenizer& tokenizer, ThreadPool& pool,
                       const PerplexityOptions& options)
    : tokenizer_(tokenizer), options_(options), reader_(model, pool, 2, options.reading) {
  validate(options);
  std::vector<int64_t>& firsts = options_.bins;
  if (firsts.empty()) {
    for (int64_t first = 1; first < kMostPosition; first *= 2) firsts.push_back(first);
  }
  bins_.resize(firsts.size());
  for (size_t i = 0; i < firsts.size(); ++i) bins_[i].first = bins_[i].last = firsts[i];
}

bool Perplexity::add(std::string_view text, bool ends) {
  const auto wanted = [&] {
    return !stopped_ && (options_.max_tokens == 0 || asked_ < options_.max_tokens);
  };
  if (!wanted()) return false;
  ids_.clear();
  tokenizer_.encode_to(text, ids_);
  for (const int32_t id : ids_) {
    if (!in_document_) begin_document();
    add_token(id);
    if (!wanted()) return false;
  }
  if (ends && in_document_) {
    document_ends_.push_back(pending_.size());
    in_document_ = false;
  }
  return true;
}

void Perplexity::finish() {
  if (!stopped_) flush();
  count_document();
}

void Perplexity::begin_document() {
  in_document_ = true;
  position_ = 0;
  if (options_.reset || !has_previous_) {
    fresh_ = true;
    has_previous_ = options_.start_token;
    previous_ = 0;
  } else if (options_.start_token) {
    feed(previous_);
    previous_ = 0;
  }
}

// The token before goes in, and this one is asked.
void Perplexity::add_token(int32_t token) {
  if (has_previous_) {
    if (options_.context > 0 && position_ == options_.context) {
      fresh_ = true;
      position_ = 0;
    }
    feed(previous_);
    Span& span = spans_.back();
    span.asked.push_back({static_cast<int64_t>(inputs_.size()) - 1 - span.begin, token});
    pending_.push_back({++position_, token});
    ++asked_;
  }
  previous_ = token;
  has_previous_ = true;
}

void Perplexity::feed(int32_t token) {
  if (static_cast<int64_t>(inputs_.size()) == options_.reading.batch_tokens) flush();
  if (fresh_ || spans_.empty()) {
    spans_.push_back({static_cast<int64_t>(inputs_.size()), fresh_ ? -1 : carry_, {}});
    fresh_ = false;
  }
  inputs_.push_back(token);
}

void Perplexity::flush() {
  if (inputs_.empty()) return;
  std::vector<Reading> readings(spans_.size());
  const std::span<const int32_t> inputs(inputs_);
  for (size_t i = 0; i < spans_.size(); ++i) {
    const int64_t end =
        i + 1 < spans_.size() ? spans_[i + 1].begin : static_cast<int64_t>(inputs_.size());
    readings[i] = {inputs.subspan(spans_[i].begin, end - spans_[i].begin), spans_[i].slot_in, -1,
                   std::move(spans_[i].asked)};
  }
  carry_ = 1 - carry_;  // not the one that the first sequence reads
  readings.back().slot_out = carry_;
  reader_.read(readings);
  size_t next = 0, end = 0;
  for (const Reading& reading : readings) {
    for (const Asked& asked : reading.asked) {
      for (; end < document_ends_.size() && document_ends_[end] == next; ++end) count_document();
      count(pending_[next++], asked.score);
    }
  }
  for (; end < document_ends_.size(); ++end) count_document();
  inputs_.clear();
  spans_.clear();
  pending_.clear();
  document_ends_.clear();
  if (options_.go_on && !options_.go_on()) stopped_ = true;
}

void Perplexity::count(const Pending& pending, const TokenScore& score) {
  const double nats = -score.log_probability;
  ++document_.tokens;
  document_.nats += nats;
  for (const char c : tokenizer_.bytes_of(pending.token)) {
    ++document_.bytes;
    const bool space = is_space(c);
    if (!space && !in_word_) ++document_.words;
    in_word_ = !space;
  }
  const auto after = std::upper_bound(options_.bins.begin(), options_.bins.end(), pending.position);
  PositionBin& bin = bins_[after - options_.bins.begin() - 1];
  bin.last = std::max(bin.last, pending.position);
  bin.nats.add(nats);
  block_nats_ += nats;
  if (++block_tokens_ == kBlockTokens) {
    over_blocks_.add(block_nats_, static_cast<double>(block_tokens_));
    block_nats_ = 0;
    block_tokens_ = 0;
  }
}

void Perplexity::count_document() {
  in_word_ = false;
  if (document_.tokens == 0) return;
  ++totals_.documents;
  totals_.tokens += document_.tokens;
  totals_.bytes += document_.bytes;
  totals_.words += document_.words;
  totals_.nats += document_.nats;
  over_documents_.add(document_.nats, static_cast<double>(document_.tokens));
  if (on_document) on_document(document_);
  document_ = {};
}

PerplexityResult Perplexity::result() const {
  PerplexityResult result = totals_;
  result.error_over_documents = over_documents_.count() >= 2;
  if (result.error_over_documents) {
    result.error = over_documents_.error();
  } else {
    Ratio blocks = over_blocks_;
    if (block_tokens_ > 0) blocks.add(block_nats_, static_cast<double>(block_tokens_));
    result.error = blocks.error();
  }
  for (const PositionBin& bin : bins_) {
    if (bin.nats.count() > 0) result.bins.push_back(bin);
  }
  return result;
}

}  // namespace rookery
