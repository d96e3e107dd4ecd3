#include "generation/generator.h"

#include <chrono>
#include <utility>

#include "core/error.h"

namespace rookery {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string_view name_of(EndReason reason) {
  switch (reason) {
    case EndReason::kStop:
      return "stop";
    case EndReason::kEnd:
      return "end";
    case EndReason::kLength:
      return "length";
    case EndReason::kInterrupted:
      break;
  }
  return "interrupted";
}

Generator::Generator(Sampler& sampler, const Tokenizer* tokenizer, GenerationOptions options)
    : sampler_(sampler),
      tokenizer_(tokenizer),
      most_tokens_(options.most_tokens),
      top_(options.top_log_probabilities),
      matcher_(options.stops) {
  check(tokenizer != nullptr || options.stops.empty()) ||
      fail("a stop text needs a tokenizer, and none is known for this model");
  if (most_tokens_ <= 0) reason_ = EndReason::kLength;
}

std::string Generator::echo(std::span<const int32_t> prompt) {
  return tokenizer_ == nullptr ? "" : utf8_.push(tokenizer_->decode(prompt));
}

const Piece* Generator::next(std::span<const float> logits) {
  if (ended()) return nullptr;
  Sampler::Choice choice = sampler_.sample(logits, top_);
  if (choice.id == kEndOfDocument) {
    reason_ = EndReason::kEnd;
    return nullptr;
  }
  sampler_.accept(choice.id);
  ++tokens_;
  piece_.choice = std::move(choice);
  if (tokenizer_ != nullptr) {
    piece_.bytes = tokenizer_->bytes_of(static_cast<int32_t>(piece_.choice.id));
    const std::string passed = matcher_.push(piece_.bytes);
    piece_.certain_bytes += static_cast<int64_t>(passed.size());
    piece_.text = utf8_.push(passed);
  }
  if (matcher_.stopped()) {
    reason_ = EndReason::kStop;
  } else if (tokens_ == most_tokens_) {
    reason_ = EndReason::kLength;
  }
  return &piece_;
}

void Generator::interrupt() {
  if (!ended()) reason_ = EndReason::kInterrupted;
}

std::string Generator::finish() {
  const std::string text = utf8_.push(matcher_.finish());
  return text + utf8_.finish();
}

std::span<const float> read_prompt(Session& session, std::span<const int32_t> prompt,
                                   const GenerationEvents& events) {
  const auto total = static_cast<int64_t>(prompt.size());
  if (events.stop && events.stop()) return {};
  return session.feed(prompt, [&](int64_t read) {
    if (events.prompt_progress) events.prompt_progress(read, total);
    return read == total || !events.stop || !events.stop();
  });
}

Generated generate(Session& session, Generator& generator, std::span<const int32_t> prompt,
                   const GenerationEvents& events, std::span<const float> logits) {
  Generated result;
  const auto prompt_start = std::chrono::steady_clock::now();
  if (!prompt.empty()) {
    logits = read_prompt(session, prompt, events);
    result.prompt_read = !logits.empty();
    if (!result.prompt_read) generator.interrupt();
  }
  const auto start = std::chrono::steady_clock::now();
  result.prompt_seconds = seconds_since(prompt_start);
  while (!generator.ended()) {
    if (events.stop && events.stop()) {
      generator.interrupt();
      break;
    }
    if (result.unread) logits = session.feed(*std::exchange(result.unread, std::nullopt));
    const Piece* piece = generator.next(logits);
    if (piece == nullptr) break;
    result.unread = static_cast<int32_t>(piece->choice.id);
    if (events.piece) events.piece(*piece);
  }
  result.seconds = seconds_since(start);
  result.reason = generator.reason();
  result.tokens = generator.tokens();
  result.rest = generator.finish();
  result.logits = logits;
  return result;
}

}  // namespace rookery
