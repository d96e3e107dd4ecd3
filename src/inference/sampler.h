// Chooses the next token id from a model's logits.
//
// Five programs give the same knobs five meanings, so ours are named. What happens, in order:
//   1. logit bias is added, penalties are subtracted, banned ids become impossible;
//   2. TemperatureOrder::kLast (the `rwkv` Python package, which model cards quote):
//        softmax, top-p, top-k, min-p, typical, and then p^(1/temperature);
//      TemperatureOrder::kFirst (the chain of Hugging Face transformers):
//        softmax(logits / temperature), top-k, top-p, min-p, typical;
//      every cut looks at the renormalised survivors of the cut before it;
//   3. one uniform number picks among the survivors, in ascending order of id.
// Temperature 0 is greedy: the largest adjusted logit, the lowest id if several are equal; the cuts
// never remove it and no random number is drawn.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/random.h"

namespace rookery {

// What an accepted token costs in later steps. In every mode a penalty-free id gains presence only.
enum class PenaltyMode : uint8_t {
  // The `rwkv` package: an id that was ever produced loses presence + occurrence * frequency. At
  // each step all occurrences are multiplied by penalty_decay, then the new id's grows by 1.
  // Presence stays.
  kRwkv,
  // ai00: one number per id, which starts at presence, grows by frequency at each repetition, and
  // is multiplied as a whole by penalty_decay at each step. Presence fades too.
  kDecayed,
  // The OpenAI API: presence + count * frequency. penalty_decay is not used.
  kOpenai,
};

enum class TemperatureOrder : uint8_t { kLast, kFirst };

// "rwkv", "decayed", "openai" and "last", "first". The parsers throw Error for anything else.
std::string_view name_of(PenaltyMode mode);
std::string_view name_of(TemperatureOrder order);
PenaltyMode parse_penalty_mode(std::string_view text);
TemperatureOrder parse_temperature_order(std::string_view text);

struct SamplerOptions {
  double temperature = 1;  // 0 = greedy
  // The most probable tokens whose sum first reaches top_p, and all that equal the last of them.
  // 1 = off, 0 = the most probable only.
  double top_p = 1;
  // Locally typical sampling (Meister et al. 2022): the tokens whose surprise -log p is nearest the
  // entropy, until their sum reaches typical_p. 1 = off.
  double typical_p = 1;
  // Tokens at least min_p times as probable as the most probable one. 0 = off.
  double min_p = 0;
  // The k most probable tokens, the lower id if equal. 0 = off.
  int64_t top_k = 0;

  PenaltyMode penalty_mode = PenaltyMode::kRwkv;
  // Presence, frequency and every bias: -1e6 to 1e6. A negative penalty encourages.
  double presence = 0;
  double frequency = 0;
  double penalty_decay = 0.996;
  // Space, tab and digits in the `rwkv` package: text needs them again and again.
  std::vector<int64_t> penalty_free_ids;

  std::vector<std::pair<int64_t, float>> logit_bias;  // (id, added to its logit)
  std::vector<int64_t> banned;
  TemperatureOrder temperature_order = TemperatureOrder::kLast;
  uint64_t seed = 0;
};

// Throws Error naming the first option out of its range.
void validate(const SamplerOptions& options);

// All that changes while sampling. With the same options it continues a text exactly.
struct SamplerState {
  uint64_t random_position = 0;
  // (id, number), ascending ids. The number is the occurrence, or in kDecayed the whole penalty.
  std::vector<std::pair<int64_t, double>> penalties;
};

// The min(count, vocabulary) ids with the largest of the logits [vocabulary], best first; of equal
// ones the smallest id. NaN counts as -infinity.
std::vector<int64_t> best_tokens(std::span<const float> logits, int64_t count);

// One stream of text. Not for several threads at once.
class Sampler {
 public:
  struct Choice {
    int64_t id = 0;
    // Natural log of the probability under the untouched softmax of the logits: no bias, no
    // temperature.
    float log_probability = 0;
    // The min(top_count, vocabulary) most probable ids under the same softmax, best first.
    std::vector<std::pair<int64_t, float>> top;
  };

  // Throws Error as validate() does.
  explicit Sampler(SamplerOptions options);

  // Chooses one id from logits [vocabulary]; -infinity marks an impossible id. It does not record
  // the choice: call accept() for what becomes part of the text (a stop token usually does not).
  // Throws Error when a logit is NaN or +infinity, when every id is impossible, or when an option
  // names an id that the vocabulary does not have; nothing changes then.
  Choice sample(std::span<const float> logits, int top_count = 0);

  // Records that `id` was produced, for the penalties: sampled, or put there by the caller. Throws
  // Error for a negative id.
  void accept(int64_t id);

  // The probabilities that sample() would draw from: (id, probability), ascending ids, survivors
  // only. Errors as for sample().
  std::vector<std::pair<int64_t, double>> distribution(std::span<const float> logits);

  SamplerState state() const;
  // Throws Error for a negative id or a number that no text can have led to.
  void restore(const SamplerState& state);
  const SamplerOptions& options() const { return options_; }

 private:
  struct Candidate {
    int64_t id;
    double score;   // logit less the largest one; already divided by the temperature in kFirst
    double weight;  // exp(score): the probability up to a common factor
  };
  struct Keyed {
    double key, mass;
  };

  std::span<const float> adjust(std::span<const float> logits);
  void select(std::span<const float> logits, double logits_top, double total,
              std::span<const float> adjusted, double top);
  void cut_top_p(double total);
  void cut_top_k();
  void cut_min_p();
  void cut_typical();
  double total_weight() const;
  double key_reaching(double target);

  SamplerOptions options_;
  Random random_;
  std::map<int64_t, double> penalties_;

  // Buffers kept between calls.
  std::vector<float> adjusted_;        // [vocabulary]
  std::vector<double> weights_;        // [vocabulary]
  std::vector<Candidate> candidates_;  // survivors, ascending ids
  std::vector<Keyed> keyed_;
  std::vector<double> scores_;
};

}  // namespace rookery
