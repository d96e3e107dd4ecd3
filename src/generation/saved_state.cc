#include "generation/saved_state.h"

#include <algorithm>
#include <cstring>

#include "io/file.h"
#include "models/fingerprint.h"

namespace rookery {
namespace {

std::vector<std::pair<std::string, int64_t>> sizes_of(const ModelConfig& config) {
  return {{"layers", config.layers},
          {"width", config.width},
          {"attention_width", config.attention_width},
          {"ffn_width", config.ffn_width},
          {"vocabulary", config.vocabulary}};
}

// Why the state belongs to another model; empty if it does not.
std::string misfit(const SavedState& saved, const Model& model) {
  const ModelConfig& config = model.config();
  if (saved.generation != config.generation) {
    return fmt::format("it is of RWKV-{}, the model is RWKV-{}", saved.generation,
                       config.generation);
  }
  const auto sizes = sizes_of(config);
  for (size_t i = 0; i < std::min(sizes.size(), saved.sizes.size()); ++i) {
    if (sizes[i] == saved.sizes[i]) continue;
    return fmt::format("its {} is {}, the model has {} {}", saved.sizes[i].first,
                       saved.sizes[i].second, sizes[i].first, sizes[i].second);
  }
  if (sizes.size() != saved.sizes.size()) {
    return fmt::format("it names {} sizes, the model has {}", saved.sizes.size(), sizes.size());
  }
  const FingerprintMatch match = match_fingerprints(saved.fingerprint, fingerprint(model));
  if (match.same()) return "";
  if (!match.same_shapes) return "the fingerprint is of parameters of other names or shapes";
  return fmt::format(
      "the sizes agree, but the fingerprint does not: {} of {} weights compared are others",
      match.differ, match.values);
}

}  // namespace

SavedState saved_state(const Model& model, const Tokenizer* tokenizer, const State& state,
                       int64_t tokens) {
  SavedState saved;
  saved.generation = model.config().generation;
  saved.sizes = sizes_of(model.config());
  saved.fingerprint = fingerprint(model);
  saved.tokens = tokens;
  if (tokenizer != nullptr) saved.tokenizer = tokenizer->name();
  const State here = state.on_host();
  const float* values = here.slot(0).as<float>();
  for (const StateItem& item : state.layout().items) {
    saved.items.push_back(
        {item.name, std::vector(values + item.offset, values + item.offset + item.width)});
  }
  return saved;
}

SavedState load_state(const std::filesystem::path& path, const Model& model,
                      const Tokenizer* tokenizer) {
  SavedState saved = read_state_file(path);
  const std::string problem = misfit(saved, model);
  check(problem.empty()) ||
      fail("'{}' is the state of another model: {}; use the model that made it", path.string(),
           problem);
  const std::string name(tokenizer == nullptr ? "" : tokenizer->name());
  check(saved.tokenizer.empty() || name.empty() || saved.tokenizer == name) ||
      fail(
          "'{}' was made with the tokenizer {}, this one is {}: use the tokenizer it was made with",
          path.string(), saved.tokenizer, name);
  const std::vector<StateItem>& items = model.state_layout().items;
  bool fits = items.size() == saved.items.size();
  for (size_t i = 0; fits && i < items.size(); ++i) {
    fits = items[i].name == saved.items[i].name &&
           items[i].width == static_cast<int64_t>(saved.items[i].values.size());
  }
  const int64_t vocabulary = model.config().vocabulary;
  fits = fits && (saved.logits.empty() || static_cast<int64_t>(saved.logits.size()) == vocabulary);
  if (saved.sampler) {
    for (const auto& [id, number] : saved.sampler->penalties) fits = fits && id < vocabulary;
  }
  check(fits) ||
      fail("'{}' holds items that a state of RWKV-{} of {} layers and width {} does not have",
           path.string(), model.config().generation, model.config().layers, model.config().width);
  return saved;
}

State state_of(const SavedState& saved, const Model& model) {
  State state(model.state_layout(), 1);
  float* values = state.slot(0).as<float>();
  for (size_t i = 0; i < saved.items.size(); ++i) {
    const StateItem& item = state.layout().items[i];
    std::memcpy(values + item.offset, saved.items[i].values.data(), item.width * sizeof(float));
  }
  return state;
}

SavedSampler saved_sampler(const Sampler& sampler) {
  const SamplerState state = sampler.state();
  return {sampler.options().seed, state.random_position,
          std::string(name_of(sampler.options().penalty_mode)), state.penalties};
}

void restore_sampler(const SavedSampler& saved, Sampler& sampler) {
  const SamplerOptions& options = sampler.options();
  // A count, or a whole penalty.
  const auto whole = [](PenaltyMode mode) { return mode == PenaltyMode::kDecayed; };
  const bool same = whole(parse_penalty_mode(saved.penalty_mode)) == whole(options.penalty_mode);
  SamplerState state;
  if (saved.seed == options.seed) state.random_position = saved.random_position;
  if (same) state.penalties = saved.penalties;
  sampler.restore(state);
}

void check_writable(const std::filesystem::path& path) { AtomicFile(path).size(); }

}  // namespace rookery
