#include "evaluation/packed_reader.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "evaluation/log_softmax.h"

namespace rookery {
namespace {

// Two are enough: in one forward only the first sequence may come from the one before, and only the
// last may go on. They may not share a slot, unless they are the same sequence.
constexpr int64_t kCarrySlots = 2;

}  // namespace

PackedReader::PackedReader(const Model& model, ThreadPool& pool, int64_t slots,
                           const PackedReaderOptions& options)
    : options_(options),
      slots_(slots),
      runner_(model, pool, slots + kCarrySlots, options.deterministic),
      pool_(pool) {
  check(options.batch_tokens > 0 && options.batch_tokens <= int64_t{1} << 24) ||
      fail("{} tokens at once cannot be read: expected 1 to 2^24", options.batch_tokens);
}

void PackedReader::read(std::span<Reading> readings) {
  const int64_t vocabulary = model().config().vocabulary;
  const auto check_id = [&](int32_t token) {
    check(token >= 0 && token < vocabulary) ||
        fail(
            "token {} is not in the vocabulary: this model has tokens 0 to {}; is the tokenizer "
            "the one it was trained with?",
            token, vocabulary - 1);
  };
  for (const Reading& reading : readings) {
    assert(!reading.tokens.empty());
    for (const int32_t token : reading.tokens) check_id(token);
    for (const Asked& asked : reading.asked) {
      assert(asked.row >= 0 && asked.row < static_cast<int64_t>(reading.tokens.size()));
      check_id(asked.token);
    }
  }
  batch_.clear();  // an earlier call may have failed half-way
  questions_.clear();
  first_question_.clear();
  int64_t carry = slots_;
  int64_t begun = 0;  // tokens of the reading in hand that went into earlier batches
  size_t asked = 0;   // the same of its questions
  for (size_t r = 0; r < readings.size();) {
    Reading& reading = readings[r];
    const int64_t length = static_cast<int64_t>(reading.tokens.size());
    const int64_t room = options_.batch_tokens - batch_.rows();
    const int64_t count = std::min(length - begun, room), end = begun + count;
    const int64_t from = begun == 0 ? reading.slot_in : carry;
    const bool ends = end == length;
    if (!ends) carry = carry == slots_ ? slots_ + 1 : slots_;
    const int64_t offset = batch_.rows() - begun;
    for (; asked < reading.asked.size() && reading.asked[asked].row < end; ++asked) {
      ask(offset + reading.asked[asked].row, reading.asked[asked]);
    }
    batch_.add(reading.tokens.subspan(begun, count), from, ends ? reading.slot_out : carry);
    begun = end;
    if (ends) {
      ++r;
      begun = 0;
      asked = 0;
    }
    if (batch_.rows() == options_.batch_tokens || r == readings.size()) forward();
  }
}

void PackedReader::ask(int64_t row, Asked& asked) {
  if (batch_.wanted.empty() || batch_.wanted.back() != row) {
    batch_.wanted.push_back(static_cast<int32_t>(row));
    first_question_.push_back(questions_.size());
  }
  questions_.push_back(&asked);
}

void PackedReader::forward() {
  first_question_.push_back(questions_.size());
  runner_.forward(batch_,
                  [&](int64_t first, std::span<const float> logits) { answer(first, logits); });
  tokens_read_ += batch_.rows();
  batch_.clear();
  questions_.clear();
  first_question_.clear();
}

void PackedReader::answer(int64_t first, std::span<const float> logits) {
  const int64_t vocabulary = model().config().vocabulary;
  const int64_t rows = static_cast<int64_t>(logits.size()) / vocabulary;
  pool_.for_ranges(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const std::span<const float> row = logits.subspan(i * vocabulary, vocabulary);
      const LogSoftmax normal = log_softmax(row);
      for (size_t q = first_question_[first + i]; q < first_question_[first + i + 1]; ++q) {
        Asked& asked = *questions_[q];
        asked.score = {normal.of(row[asked.token]), is_greedy(row, normal, asked.token)};
        check(std::isfinite(asked.score.log_probability)) ||
            fail(
                "the model's logits are not finite: its weights are damaged, or its training has "
                "diverged");
      }
    }
  });
}

}  // namespace rookery
