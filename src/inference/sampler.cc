// Sampling without a sort: every cut is a threshold, found by selection, and the survivors stay in
// the order of their ids. Most of the time goes into one exponential per vocabulary entry.
#include "inference/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <ranges>

#include "core/error.h"

namespace rookery {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// No bias or penalty beyond this means anything, and a finite logit stays finite with it.
constexpr double kLargestChange = 1e6;
constexpr double kLargestCount = 1e18;

constexpr std::array<std::pair<PenaltyMode, std::string_view>, 3> kPenaltyModes = {{
    {PenaltyMode::kRwkv, "rwkv"},
    {PenaltyMode::kDecayed, "decayed"},
    {PenaltyMode::kOpenai, "openai"},
}};
constexpr std::array<std::pair<TemperatureOrder, std::string_view>, 2> kTemperatureOrders = {{
    {TemperatureOrder::kLast, "last"},
    {TemperatureOrder::kFirst, "first"},
}};

// Throws when a logit is not a number or is +infinity.
void check_logits(std::span<const float> logits) {
  check(!logits.empty()) || fail("cannot sample from no logits: expected one per vocabulary entry");
  const auto bad = std::find_if_not(logits.begin(), logits.end(), [](float x) {
    return x < std::numeric_limits<float>::infinity();  // false for NaN
  });
  if (bad == logits.end()) return;
  fail(
      "the logit of token {} is {}: expected a finite number; the weights or the state are "
      "damaged, or a 16-bit computation overflowed (try --dtype f32)",
      bad - logits.begin(), *bad);
}

// The first of the largest logits.
int64_t best_of(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

// weights[i] = exp((logits[i] - top) * scale); returns their sum.
double weigh(std::span<const float> logits, double top, double scale,
             std::vector<double>& weights) {
  weights.resize(logits.size());
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] = std::exp((logits[i] - top) * scale);
    total += weights[i];
  }
  return total;
}

// From weights of `logits` to weights of `adjusted`, which differs in few places and has its own
// largest value: a product instead of an exponential. Returns their sum.
double reweigh(std::span<const float> logits, double top, std::span<const float> adjusted,
               double adjusted_top, std::vector<double>& weights) {
  // So far apart, what was negligible before may matter now: begin again.
  if (std::abs(top - adjusted_top) > 100) return weigh(adjusted, adjusted_top, 1, weights);
  const double factor = std::exp(top - adjusted_top);
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] =
        adjusted[i] == logits[i] ? weights[i] * factor : std::exp(adjusted[i] - adjusted_top);
    total += weights[i];
  }
  return total;
}

// The first of the largest logits, which must be possible.
int64_t possible_best(std::span<const float> adjusted) {
  const int64_t best = best_of(adjusted);
  check(adjusted[best] != kImpossible) ||
      fail("no token can be chosen: all {} are impossible or banned; ban fewer", adjusted.size());
  return best;
}

void check_id(std::string_view what, int64_t id) {
  check(id >= 0) || fail("{} names token {}: expected an id of 0 or more", what, id);
}

}  // namespace

std::string_view name_of(PenaltyMode mode) {
  return kPenaltyModes[static_cast<size_t>(mode)].second;
}

std::string_view name_of(TemperatureOrder order) {
  return kTemperatureOrders[static_cast<size_t>(order)].second;
}

PenaltyMode parse_penalty_mode(std::string_view text) {
  for (const auto& [mode, name] : kPenaltyModes) {
    if (text == name) return mode;
  }
  fail("unknown penalty mode '{}': expected rwkv, decayed or openai", text);
}

TemperatureOrder parse_temperature_order(std::string_view text) {
  for (const auto& [order, name] : kTemperatureOrders) {
    if (text == name) return order;
  }
  fail("unknown temperature order '{}': expected last or first", text);
}

void validate(const SamplerOptions& options) {
  // Written so that NaN fails too.
  check(options.temperature >= 0 && std::isfinite(options.temperature)) ||
      fail("temperature is {}: expected 0 (greedy) or a positive number", options.temperature);
  check(options.top_p >= 0 && options.top_p <= 1) ||
      fail("top-p is {}: expected 0 to 1 (1 turns it off)", options.top_p);
  check(options.typical_p > 0 && options.typical_p <= 1) ||
      fail("typical-p is {}: expected more than 0 and at most 1 (1 turns it off)",
           options.typical_p);
  check(options.min_p >= 0 && options.min_p <= 1) ||
      fail("min-p is {}: expected 0 to 1 (0 turns it off)", options.min_p);
  check(options.top_k >= 0) ||
      fail("top-k is {}: expected 0 (off) or the number of tokens to keep", options.top_k);
  check(std::abs(options.presence) <= kLargestChange) ||
      fail("the presence penalty is {}: expected a number between -{} and {}", options.presence,
           kLargestChange, kLargestChange);
  check(std::abs(options.frequency) <= kLargestChange) ||
      fail("the frequency penalty is {}: expected a number between -{} and {}", options.frequency,
           kLargestChange, kLargestChange);
  check(options.penalty_decay >= 0 && options.penalty_decay <= 1) ||
      fail("the penalty decay is {}: expected 0 to 1 (1 never forgets)", options.penalty_decay);
  for (const int64_t id : options.penalty_free_ids) check_id("the penalty-free list", id);
  for (const int64_t id : options.banned) check_id("the list of banned tokens", id);
  for (const auto& [id, bias] : options.logit_bias) {
    check_id("the logit bias", id);
    check(std::abs(bias) <= kLargestChange) ||
        fail(
            "the logit bias of token {} is {}: expected a number between -{} and {}; to forbid a "
            "token, ban it",
            id, bias, kLargestChange, kLargestChange);
  }
}

Sampler::Sampler(SamplerOptions options) : options_(std::move(options)), random_(options_.seed) {
  validate(options_);
  std::sort(options_.penalty_free_ids.begin(), options_.penalty_free_ids.end());
}

// The logits after bias, penalties and bans: the caller's own memory when there are none.
std::span<const float> Sampler::adjust(std::span<const float> logits) {
  check_logits(logits);
  const bool penalise = (options_.presence != 0 || options_.frequency != 0) && !penalties_.empty();
  if (!penalise && options_.logit_bias.empty() && options_.banned.empty()) return logits;

  adjusted_.assign(logits.begin(), logits.end());
  const auto logit_of = [this](int64_t id, std::string_view what) -> float& {
    const int64_t vocabulary = static_cast<int64_t>(adjusted_.size());
    check(id < vocabulary) ||
        fail("{} names token {}, but the model has tokens 0 to {} only", what, id, vocabulary - 1);
    return adjusted_[id];
  };
  for (const auto& [id, bias] : options_.logit_bias) logit_of(id, "the logit bias") += bias;
  if (penalise) {
    for (const auto& [id, number] : penalties_) {
      const double penalty = options_.penalty_mode == PenaltyMode::kDecayed
                                 ? number
                                 : options_.presence + number * options_.frequency;
      logit_of(id, "the record of produced tokens") -= static_cast<float>(penalty);
    }
  }
  for (const int64_t id : options_.banned) logit_of(id, "the list of banned tokens") = kImpossible;
  return adjusted_;
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

// The largest key t such that the mass of all items of `keyed_` with key >= t reaches `target`, or
// the smallest key if none does. Quickselect by mass; reorders `keyed_`, which is not empty.
double Sampler::key_reaching(double target) {
  size_t begin = 0, end = keyed_.size();
  double above = 0;  // mass of the items with keys above the range
  while (true) {
    const double a = keyed_[begin].key, b = keyed_[begin + (end - begin) / 2].key;
    const double c = keyed_[end - 1].key;
    const double pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    // Three parts: [begin, greater) > pivot, [greater, less) == pivot, [less, end) < pivot.
    size_t greater = begin, less = end;
    double mass_greater = 0, mass_equal = 0;
    for (size_t i = begin; i < less;) {
      if (keyed_[i].key > pivot) {
        mass_greater += keyed_[i].mass;
        std::swap(keyed_[greater++], keyed_[i++]);
      } else if (keyed_[i].key < pivot) {
        std::swap(keyed_[i], keyed_[--less]);
      } else {
        mass_equal += keyed_[i++].mass;
      }
    }
    if (greater > begin && above + mass_greater >= target) {
      end = greater;
    } else if (less == end || above + mass_greater + mass_equal >= target) {
      return pivot;
    } else {
      above += mass_greater + mass_equal;
      begin = less;
    }
  }
}

// `total` may count tokens that are not among the candidates any more, if top-p cuts them for
// certain.
void Sampler::cut_top_p(double total) {
  if (options_.top_p >= 1) return;
  keyed_.clear();
  for (const Candidate& candidate : candidates_)
    keyed_.push_back({candidate.score, candidate.weight});
  const double threshold = key_reaching(options_.top_p * total);
  std::erase_if(candidates_, [=](const Candidate& c) { return c.score < threshold; });
}

void Sampler::cut_top_k() {
  const int64_t k = options_.top_k;
  if (k == 0 || k >= static_cast<int64_t>(candidates_.size())) return;
  scores_.resize(k);
  std::ranges::partial_sort_copy(candidates_ | std::views::transform(&Candidate::score), scores_,
                                 std::greater<>());
  const double threshold = scores_.back();
  int64_t room = k - std::count_if(candidates_.begin(), candidates_.end(),
                                   [=](const Candidate& c) { return c.score > threshold; });
  std::erase_if(candidates_, [&](const Candidate& c) {
    return c.score < threshold || (c.score == threshold && room-- <= 0);
  });
}

// The most probable token survives the cuts before this one, so its weight, exp(0) = 1, is the
// measure.
void Sampler::cut_min_p() {
  if (options_.min_p <= 0) return;
  std::erase_if(candidates_, [this](const Candidate& c) { return c.weight < options_.min_p; });
}

void Sampler::cut_typical() {
  if (options_.typical_p >= 1) return;
  const double total = total_weight();
  const double log_total = std::log(total);
  double entropy = 0;
  for (const Candidate& c : candidates_) entropy += c.weight / total * (log_total - c.score);
  const auto key = [=](const Candidate& c) { return -std::abs(log_total - c.score - entropy); };
  keyed_.clear();
  for (const Candidate& candidate : candidates_)
    keyed_.push_back({key(candidate), candidate.weight});
  const double threshold = key_reaching(options_.typical_p * total);
  std::erase_if(candidates_, [=](const Candidate& c) { return key(c) < threshold; });
}

// Leaves in `candidates_` the survivors with the weights to draw by. On entry `weights_` holds the
// weights of `logits`, whose largest is `logits_top`, and `total` their sum. `top` is the largest
// of `adjusted`, finite. The temperature is not 0.
void Sampler::select(std::span<const float> logits, double logits_top, double total,
                     std::span<const float> adjusted, double top) {
  const bool last = options_.temperature_order == TemperatureOrder::kLast;
  // Capped so that the product with any difference of two logits is finite.
  const double scale = last ? 1 : std::min(1 / options_.temperature, 1e30);
  if (scale != 1) {
    total = weigh(adjusted, top, scale, weights_);
  } else if (adjusted.data() != logits.data()) {
    total = reweigh(logits, logits_top, adjusted, top, weights_);
  }

  // Tokens that hold less than (1 - top_p) / vocabulary each hold less than 1 - top_p together, so
  // top-p cuts them all: a few hundred of 65536 remain to be looked at. Half of that leaves room
  // for rounding.
  const bool top_p_is_first = options_.top_p < 1 && (last || options_.top_k == 0);
  const double floor =
      top_p_is_first ? 0.5 * (1 - options_.top_p) * total / static_cast<double>(adjusted.size())
                     : 0;
  candidates_.clear();
  for (size_t id = 0; id < adjusted.size(); ++id) {
    if (weights_[id] < floor || adjusted[id] == kImpossible) continue;
    candidates_.push_back({static_cast<int64_t>(id), (adjusted[id] - top) * scale, weights_[id]});
  }

  if (last) {
    cut_top_p(total);
    cut_top_k();
  } else {
    cut_top_k();
    cut_top_p(top_p_is_first ? total : total_weight());
  }
  cut_min_p();
  cut_typical();
  if (last && options_.temperature != 1) {
    // The largest survivor becomes 1, so that a small temperature cannot make every weight 0.
    double best = candidates_[0].score;
    for (const Candidate& candidate : candidates_) best = std::max(best, candidate.score);
    for (Candidate& candidate : candidates_) {
      candidate.weight = std::exp((candidate.score - best) / options_.temperature);
    }
  }
}

std::vector<int64_t> best_tokens(std::span<const float> logits, int64_t count) {
  const auto size = static_cast<int64_t>(logits.size());
  std::vector<int64_t> best(static_cast<size_t>(std::clamp<int64_t>(count, 0, size)));
  if (best.empty()) return best;
  const auto key = [&](int64_t id) { return std::isnan(logits[id]) ? kImpossible : logits[id]; };
  std::ranges::partial_sort_copy(
      std::views::iota(int64_t{0}, size), best,
      [&](int64_t a, int64_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  return best;
}

Sampler::Choice Sampler::sample(std::span<const float> logits, int top_count) {
  check(top_count >= 0) ||
      fail("{} most probable tokens were asked for: expected 0 or more", top_count);
  const std::span<const float> adjusted = adjust(logits);
  const int64_t best = possible_best(adjusted);
  const double top = logits[best_of(logits)];
  const double total = weigh(logits, top, 1, weights_);
  const double log_normalizer = top + std::log(total);
  const auto log_probability = [&](int64_t id) {
    return static_cast<float>(logits[id] - log_normalizer);
  };

  Choice choice;
  if (options_.temperature == 0) {
    choice.id = best;
  } else {
    select(logits, top, total, adjusted, adjusted[best]);
    const double target = random_.uniform() * total_weight();
    double sum = 0;
    for (const Candidate& candidate : candidates_) {
      if (candidate.weight == 0) continue;
      choice.id = candidate.id;
      sum += candidate.weight;
      if (sum > target) break;
    }
  }
  choice.log_probability = log_probability(choice.id);

  for (const int64_t id : best_tokens(logits, top_count)) {
    choice.top.emplace_back(id, log_probability(id));
  }
  return choice;
}

std::vector<std::pair<int64_t, double>> Sampler::distribution(std::span<const float> logits) {
  const std::span<const float> adjusted = adjust(logits);
  const int64_t best = possible_best(adjusted);
  if (options_.temperature == 0) return {{best, 1.0}};
  const double top = logits[best_of(logits)];
  select(logits, top, weigh(logits, top, 1, weights_), adjusted, adjusted[best]);
  const double total = total_weight();
  std::vector<std::pair<int64_t, double>> result;
  for (const Candidate& c : candidates_) {
    if (c.weight > 0) result.emplace_back(c.id, c.weight / total);
  }
  return result;
}

void Sampler::accept(int64_t id) {
  check(id >= 0) || fail("token {} cannot have been produced: expected an id of 0 or more", id);
  const double decay = options_.penalty_mode == PenaltyMode::kOpenai ? 1 : options_.penalty_decay;
  if (decay != 1) {
    for (auto& [other, number] : penalties_) number *= decay;
  }
  const bool whole = options_.penalty_mode == PenaltyMode::kDecayed;
  const bool free =
      std::binary_search(options_.penalty_free_ids.begin(), options_.penalty_free_ids.end(), id);
  const double growth = free ? 0 : whole ? options_.frequency : 1;
  const auto [position, is_new] = penalties_.try_emplace(id, whole ? options_.presence : growth);
  if (!is_new) position->second += growth;
}

SamplerState Sampler::state() const {
  return {random_.position(), {penalties_.begin(), penalties_.end()}};
}

void Sampler::restore(const SamplerState& state) {
  for (const auto& [id, number] : state.penalties) {
    check(id >= 0 && std::abs(number) <= kLargestCount) ||
        fail(
            "the saved sampler state holds token {} with {}: expected an id of 0 or more and a "
            "number of at most {}; start without it",
            id, number, kLargestCount);
  }
  random_.set_position(state.random_position);
  penalties_.clear();
  penalties_.insert(state.penalties.begin(), state.penalties.end());
}

}  // namespace rookery
