// The loop of generation: logits in, tokens and text out, until something ends it.
//
// A Generator is one text that grows: it chooses tokens, holds back what may be the beginning of a
// stop text, and yields valid UTF-8. It knows no model, so that whoever computes logits for many
// texts at once can feed it from any row of a batch. generate() is the loop for one session.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "inference/sampler.h"
#include "inference/session.h"
#include "text/stop_matcher.h"
#include "text/utf8_stream.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// Token 0 ends a document, and so begins the next one, in every vocabulary of RWKV models.
inline constexpr int32_t kEndOfDocument = 0;

struct GenerationOptions {
  int64_t most_tokens = 256;
  std::vector<std::string> stops;  // the text ends before any of them
  int top_log_probabilities = 0;   // of each step, so many of the most probable tokens are told
};

enum class EndReason : uint8_t {
  kStop,         // a stop text
  kEnd,          // token 0
  kLength,       // as many tokens as were allowed
  kInterrupted,  // the caller
};
// "stop", "end", "length" or "interrupted".
std::string_view name_of(EndReason reason);

// A token that was chosen.
struct Piece {
  Sampler::Choice choice;
  std::string_view bytes;  // of the token; empty without a tokenizer
  std::string text;        // that can be shown now: whole characters that belong to no stop
  // Of all bytes so far: those before anything that is held back.
  int64_t certain_bytes = 0;
};

class Generator {
 public:
  // The sampler and the tokenizer must outlive this. `tokenizer` may be null: then there is no
  // text. Throws Error for an empty stop text, and for stops without a tokenizer.
  Generator(Sampler& sampler, const Tokenizer* tokenizer, GenerationOptions options);

  // The text of a prompt that is shown, too, before the first token: a character may begin in the
  // one and end in the other. Empty without a tokenizer.
  std::string echo(std::span<const int32_t> prompt);

  // Chooses the next token from the logits [V] after the last one. Null if there is none because
  // the text has ended here. What it points to is valid until the next call. Throws Error as
  // Sampler::sample() does.
  const Piece* next(std::span<const float> logits);

  // The caller wants no more.
  void interrupt();

  bool ended() const { return reason_.has_value(); }
  EndReason reason() const { return *reason_; }  // once it has ended
  int64_t tokens() const { return tokens_; }

  // The text that was held back, once it has ended. It belongs to no stop.
  std::string finish();

 private:
  Sampler& sampler_;
  const Tokenizer* tokenizer_;
  int64_t most_tokens_;
  int top_;
  StopMatcher matcher_;
  Utf8Stream utf8_;
  Piece piece_;
  int64_t tokens_ = 0;
  std::optional<EndReason> reason_;
};

// What the caller is told and asked. Empty functions are left out.
struct GenerationEvents {
  // After each chunk of the prompt: how many of its tokens have been read.
  std::function<void(int64_t read, int64_t total)> prompt_progress;
  std::function<void(const Piece&)> piece;
  // Asked before each chunk of the prompt and before each token: whether to interrupt.
  std::function<bool()> stop;
};

// Reads a prompt of at least one token. The logits after it [V], or nothing if `stop` interrupted:
// then the session has read as much as its position() says.
std::span<const float> read_prompt(Session& session, std::span<const int32_t> prompt,
                                   const GenerationEvents& events);

struct Generated {
  EndReason reason = EndReason::kLength;
  bool prompt_read = true;  // false: interrupted before its end
  int64_t tokens = 0;
  std::string rest;  // Generator::finish()
  // The last token, which the session has not read yet: most callers do not want its logits.
  std::optional<int32_t> unread;
  // After what the session has read, [V]; valid until it reads more. Empty if nothing was read.
  std::span<const float> logits;
  double prompt_seconds = 0, seconds = 0;
};

// Reads the prompt and makes tokens until the text ends. Without a prompt `logits` are those to go
// on from. If anything throws, the session has read what it has read: position() says how much.
Generated generate(Session& session, Generator& generator, std::span<const int32_t> prompt,
                   const GenerationEvents& events, std::span<const float> logits = {});

}  // namespace rookery
