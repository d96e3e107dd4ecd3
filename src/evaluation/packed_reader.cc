#include "evaluation/packed_reader.h"

#include <algorithm>
#include <cmath>

#include "evaluation/log_softmax.h"

namespace rookery {
namespace {

// Two are enough: in one forward only the first sequence may come from the one before, and only the
// last may go on. They may not share a slot, unless they are the same sequence.
constexpr int64_t kCarrySlots = 2;

}  // namespace

PackedReader::PackedReader(const Model& model, ThreadPool& pool, int64_t slots,
                           const PackedReaderOptions& options)
    : model_(model),
      options_(options),
      slots_(slots),
      state_(model.state_layout(), slots + kCarrySlots, DType::kF32, model.device()),
      arena_(memory_of(model.device())) {
  check(options.batch_tokens > 0 && options.batch_tokens <= int64_t{1} << 24) ||
      fail("{} tokens at once cannot be read: expected 1 to 2^24", options.batch_tokens);
  ctx_.use(model.device(), model.activation_type());
  ctx_.pool = &pool;
  ctx_.arena = &arena_;
  ctx_.deterministic = options.deterministic;
}

void PackedReader::read(std::span<Reading> readings) {
  const int64_t vocabulary = model_.config().vocabulary;
  const auto check_id = [&](int32_t token) {
    check(token >= 0 && token < vocabulary) || fail(
                                                   "token {} is not in the vocabulary: this model "
                                                   "has tokens 0 to {}; is the tokenizer the "
                                                   "one it was trained with?",
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
      questions_.push_back({offset + reading.asked[asked].row, &reading.asked[asked]});
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

void PackedReader::forward() {
  arena_.reset();
  placed_.stage(batch_, model_.config().vocabulary, ctx_);
  placed_.send(ctx_);
  const Tensor x = model_.forward(ctx_, placed_, {.state_in = &state_, .state_out = &state_});
  tokens_read_ += batch_.rows();
  answer(x);
  batch_.clear();
  questions_.clear();
}

void PackedReader::answer(const Tensor& x) {
  const int64_t vocabulary = model_.config().vocabulary;
  const int64_t most_rows =
      std::max<int64_t>(1, kLogitsBytes / (vocabulary * static_cast<int64_t>(sizeof(float))));
  std::vector<int64_t> rows;
  std::vector<size_t> first;  // of the questions of each row, and one past the last
  size_t next = 0;
  while (next < questions_.size()) {
    rows.clear();
    first.clear();
    for (; next < questions_.size(); ++next) {
      const int64_t row = questions_[next].row;
      if (!rows.empty() && rows.back() == row) continue;
      if (static_cast<int64_t>(rows.size()) == most_rows) break;
      rows.push_back(row);
      first.push_back(next);
    }
    first.push_back(next);
    const ArenaScope scope(arena_);
    const Tensor row_logits = model_.logits(ctx_, x, rows);
    const float* logits = row_logits.as<float>();
    if (ctx_.device == Device::kCuda) {
      host_logits_.resize(row_logits.count());
      ctx_.copy(host_logits_.data(), logits, row_logits.bytes());
      ctx_.wait();
      logits = host_logits_.data();
    }
    ctx_.pool->for_ranges(
        static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            const std::span<const float> row(logits + i * vocabulary, vocabulary);
            const LogSoftmax normal = log_softmax(row);
            for (size_t q = first[i]; q < first[i + 1]; ++q) {
              Asked& asked = *questions_[q].asked;
              asked.score = {normal.of(row[asked.token]), is_greedy(row, normal, asked.token)};
              check(std::isfinite(asked.score.log_probability)) ||
                  fail(
                      "the model's logits are not finite: its weights are damaged, or its training "
                      "has "
                      "diverged");
            }
          }
        });
  }
}

}  // namespace rookery
