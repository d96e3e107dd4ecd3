// How well a model predicts text: nats per token, bits per byte, perplexities, and the loss by
// position in the context (the paper's Figure 6).
//
// A document t_1 .. t_n is encoded alone and read as 0 t_1 .. t_n-1; each t_i is predicted from
// what stands before it, exactly once. The end of a document is not predicted. What is reported:
//   nats per token   -sum of log p / tokens
//   bits per byte    -sum of log p / (bytes of these tokens * log 2)
//   token perplexity exp(-sum of log p / tokens)
//   word perplexity  exp(-sum of log p / words); words are what white space (ASCII) separates
// The position of a token counts the predictions since its document, or its window, began, from 1.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "evaluation/packed_reader.h"
#include "evaluation/statistics.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct PerplexityOptions {
  // Every document starts from the empty state. Otherwise the state goes on from document to
  // document, with token 0 between them; positions count from the document's start all the same.
  bool reset = true;
  // 0: whole documents. Otherwise they are cut into windows of so many tokens, each from the empty
  // state, as in training: a window begins with the last token of the one before.
  int64_t context = 0;
  int64_t max_tokens = 0;  // 0: all
  // Without it the first token of an empty state is not predicted and counts nowhere.
  bool start_token = true;
  // The first position of each bin, ascending from 1. Empty: powers of two.
  std::vector<int64_t> bins = {};
  PackedReaderOptions reading = {};
  // Asked after every forward; false ends the work.
  std::function<bool()> go_on = {};
};

// Throws Error for options that cannot be.
void validate(const PerplexityOptions& options);

// Tokens at positions first .. last.
struct PositionBin {
  int64_t first = 1, last = 1;  // last: of those that were seen
  Mean nats;
};

struct DocumentScore {
  int64_t tokens = 0, bytes = 0, words = 0;
  double nats = 0;
};

struct PerplexityResult {
  int64_t documents = 0, tokens = 0, bytes = 0, words = 0;
  double nats = 0;  // sum
  // The standard error of the mean nats per token: over documents, or, when there is one only, over
  // blocks of kBlockTokens tokens of it. Nothing when there is one block only.
  std::optional<double> error;
  bool error_over_documents = true;
  std::vector<PositionBin> bins;  // those that hold tokens

  double nats_per_token() const { return nats / static_cast<double>(tokens); }
  double bits_per_byte() const;
  double token_perplexity() const;
  double word_perplexity() const;
};

class Perplexity {
 public:
  static constexpr int64_t kBlockTokens = 1024;

  // The model, the tokenizer and the pool must outlive this. Throws Error as validate() does.
  Perplexity(const Model& model, const Tokenizer& tokenizer, ThreadPool& pool,
             const PerplexityOptions& options);

  // Reads a piece of a document, which `ends` closes. False when no more is wanted: max_tokens were
  // predicted, or go_on said so. Throws Error for text that the tokenizer cannot express.
  bool add(std::string_view text, bool ends);
  // Reads what is left. To be called once, after the last piece.
  void finish();

  // Of the tokens that were read so far.
  PerplexityResult result() const;
  int64_t tokens_read() const { return reader_.tokens_read(); }
  int64_t tokens_predicted() const { return totals_.tokens + document_.tokens; }
  int64_t bytes_predicted() const { return totals_.bytes + document_.bytes; }
  // Called with every document that is complete, in order.
  std::function<void(const DocumentScore&)> on_document;

 private:
  // A token on its way through the model.
  struct Pending {
    int64_t position;
    int32_t token;
  };
  // A sequence of the batch in hand.
  struct Span {
    int64_t begin, slot_in;  // of inputs_
    std::vector<Asked> asked;
  };
  void begin_document();
  void add_token(int32_t token);
  void feed(int32_t token);
  void flush();
  void count(const Pending& pending, const TokenScore& score);
  void count_document();

  const Tokenizer& tokenizer_;
  PerplexityOptions options_;
  PackedReader reader_;

  // What goes in.
  std::vector<int32_t> ids_;  // of the piece
  std::vector<int32_t> inputs_;
  std::vector<Span> spans_;
  std::vector<Pending> pending_;       // what the spans ask, in order
  std::vector<size_t> document_ends_;  // how many of pending_ come before each
  bool in_document_ = false;
  bool fresh_ = true;     // the next input meets the empty state
  int64_t carry_ = 0;     // the slot of a sequence that goes on in the next batch
  int32_t previous_ = 0;  // the last token; it is fed when it is known what follows
  bool has_previous_ = false;
  int64_t position_ = 0;  // predictions since the document or the window began
  int64_t asked_ = 0;     // predictions in all
  bool stopped_ = false;  // by go_on

  // What has come out.
  PerplexityResult totals_;
  DocumentScore document_;
  bool in_word_ = false;
  std::vector<PositionBin> bins_;
  Ratio over_documents_, over_blocks_;
  double block_nats_ = 0;
  int64_t block_tokens_ = 0;
};

}  // namespace rookery
