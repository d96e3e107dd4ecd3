#include "facade/language_model.h"

#include <utility>

#include "checkpoints/tokenizers.h"
#include "core/device.h"
#include "core/error.h"
#include "evaluation/files.h"
#include "evaluation/perplexity.h"
#include "evaluation/scorer.h"
#include "generation/generator.h"
#include "inference/sampler.h"
#include "inference/session.h"

namespace rookery {
namespace {

Evaluation evaluation_of(const PerplexityResult& result) {
  check(result.tokens > 0) || fail("there is no text to predict: expected at least one token");
  return {.documents = result.documents,
          .tokens = result.tokens,
          .bytes = result.bytes,
          .nats_per_token = result.nats_per_token(),
          .bits_per_byte = result.bits_per_byte(),
          .token_perplexity = result.token_perplexity(),
          .word_perplexity = result.word_perplexity()};
}

}  // namespace

LanguageModel::Parts::Parts(const std::string& path, const LoadOptions& options)
    : device(resolve_device(options.device)),
      deterministic(options.deterministic),
      loaded(load_model(path, parse_matrix_type(options.dtype), device)),
      tokenizer(find_tokenizer(loaded, options.tokenizer, &missing)),
      pool(threads_of(options.threads)) {}

const Tokenizer& LanguageModel::Parts::require_tokenizer() const {
  check(tokenizer != nullptr) ||
      fail("no tokenizer for '{}': name its vocabulary file: {}", loaded.file.string(), missing);
  return *tokenizer;
}

int threads_of(int threads) {
  check(threads >= 0) || fail("invalid number of threads {}: expected 0 or more", threads);
  return threads > 0 ? threads : default_threads();
}

SamplingChoices choices_of(const Sampling& sampling) {
  SamplingChoices choices{.top_p = sampling.top_p,
                          .presence = sampling.presence,
                          .frequency = sampling.frequency,
                          .top_k = sampling.top_k,
                          .seed = sampling.seed};
  SamplerOptions& options = choices.options;
  options.temperature = sampling.temperature.value_or(options.temperature);
  options.min_p = sampling.min_p.value_or(options.min_p);
  options.typical_p = sampling.typical.value_or(options.typical_p);
  options.penalty_decay = sampling.penalty_decay.value_or(options.penalty_decay);
  options.penalty_mode = parse_penalty_mode(sampling.penalty_mode);
  options.temperature_order = parse_temperature_order(sampling.temperature_order);
  options.logit_bias = sampling.logit_bias;
  options.banned = sampling.banned;
  validate(choices);
  return choices;
}

LanguageModel LanguageModel::load(const std::filesystem::path& path, const LoadOptions& options) {
  return LanguageModel(std::make_shared<const Parts>(path.string(), options));
}

LanguageModel::LanguageModel(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

ModelInfo LanguageModel::info() const {
  const ModelConfig& config = parts_->model().config();
  return {.file = parts_->loaded.file,
          .generation = config.generation,
          .layers = config.layers,
          .width = config.width,
          .vocabulary = config.vocabulary,
          .parameters = parts_->model().parameter_count(),
          .tokenizer = std::string(parts_->tokenizer ? parts_->tokenizer->name() : ""),
          .device = describe(parts_->device)};
}

std::vector<int32_t> LanguageModel::encode(std::string_view text) const {
  return parts_->require_tokenizer().encode(text);
}

std::string LanguageModel::decode(std::span<const int32_t> ids) const {
  return parts_->require_tokenizer().decode(ids);
}

std::vector<float> LanguageModel::logits(std::span<const int32_t> ids) const {
  Session session(parts_->model(), parts_->pool, parts_->deterministic);
  const std::span<const float> logits = session.feed(ids);
  return {logits.begin(), logits.end()};
}

Completion LanguageModel::generate(std::string_view prompt, const TextOptions& options,
                                   const OnText& on_text) const {
  const Tokenizer& tokenizer = parts_->require_tokenizer();
  const SamplerOptions sampling = sampler_options(choices_of(options.sampling), kTextSampling,
                                                  parts_->model().config(), &tokenizer);
  const std::vector<int32_t> ids =
      prompt.empty() ? std::vector{kEndOfDocument} : tokenizer.encode(prompt);
  Session session(parts_->model(), parts_->pool, parts_->deterministic);
  Sampler sampler(sampling);
  Generator generator(sampler, &tokenizer,
                      {.most_tokens = options.most_tokens, .stops = options.stops});
  Completion completion;
  bool wanted = true;
  const auto show = [&](const std::string& text) {
    if (text.empty()) return;
    completion.text += text;
    wanted = !on_text || on_text(text);
  };
  const Generated generated = rookery::generate(
      session, generator, ids,
      {.piece = [&](const Piece& piece) { show(piece.text); }, .stop = [&] { return !wanted; }});
  if (wanted) show(generated.rest);
  completion.reason = name_of(generated.reason);
  completion.tokens = generated.tokens;
  completion.prompt_tokens = static_cast<int64_t>(ids.size());
  completion.seed = sampling.seed;
  completion.prompt_seconds = generated.prompt_seconds;
  completion.seconds = generated.seconds;
  return completion;
}

double LanguageModel::log_likelihood(std::string_view context,
                                     std::string_view continuation) const {
  const Tokenizer& tokenizer = parts_->require_tokenizer();
  Scorer scorer(parts_->model(), parts_->pool,
                {.reading = {.deterministic = parts_->deterministic}});
  const Question question{tokenizer.encode(context), {tokenizer.encode(continuation)}};
  return scorer.score(std::span(&question, 1))[0][0].log_probability;
}

Evaluation LanguageModel::evaluate(std::string_view text) const {
  Perplexity perplexity(parts_->model(), parts_->require_tokenizer(), parts_->pool,
                        {.reading = {.deterministic = parts_->deterministic}});
  perplexity.add(text, true);
  perplexity.finish();
  return evaluation_of(perplexity.result());
}

Evaluation LanguageModel::evaluate_files(std::span<const std::filesystem::path> files,
                                         const OnEvaluation& on_progress) const {
  const std::vector<std::string> names(files.begin(), files.end());
  const PerplexityOfFiles measured =
      measure_perplexity(names, 0, parts_->model(), parts_->require_tokenizer(), parts_->pool,
                         {.reading = {.deterministic = parts_->deterministic}},
                         [&](const EvaluationProgress& progress) {
                           return !on_progress || on_progress(progress.done, progress.total);
                         });
  Evaluation evaluation = evaluation_of(measured.result);
  evaluation.partial = measured.partial;
  return evaluation;
}

}  // namespace rookery
