// Rookery in a program of your own: load an RWKV model, continue text, converse, measure, train.
//
//   const auto model = rookery::LanguageModel::load("models/stories/stories.safetensors");
//   model.generate("Once upon a time", {}, [](std::string_view text) {
//     std::cout << text << std::flush;
//     return true;
//   });
//
// Only standard headers are included. Nothing here prints or ends the program: what the user can do
// something about is thrown as rookery::Error, and memory that runs out as std::bad_alloc. A model,
// and all that was made with it, is used by one thread at a time; different models are independent
// of each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rookery/error.hpp"

namespace rookery {

struct LoadOptions {
  // "cpu", "cuda", or "auto": a GPU when one can be used.
  std::string device = "auto";
  // The numbers of the matrices in memory: "as-stored", "f32", "f16" (not on a GPU) or "bf16".
  std::string dtype = "as-stored";
  // A vocabulary file, a folder that holds one, or "bytes". Empty: the one that the model carries,
  // or one beside it. A model without any serves token ids only.
  std::string tokenizer;
  int threads = 0;  // 0: one for each physical core
  // Numbers that do not depend on how a text is cut into pieces; slower.
  bool deterministic = false;
};

struct ModelInfo {
  std::filesystem::path file;
  std::string generation;  // "4"
  int64_t layers = 0, width = 0, vocabulary = 0, parameters = 0;
  std::string tokenizer;  // its name; empty: none is known
  std::string device;     // the name of the processor or of the GPU
};

// Told each piece of text as soon as it is certain: valid UTF-8. False ends the text here.
using OnText = std::function<bool(std::string_view text)>;

// How tokens are chosen; `rookery generate --help` describes each. What is not set has the default
// of the task, as on the command line.
struct Sampling {
  std::optional<double> temperature;  // 0: always the most probable token
  std::optional<double> top_p, min_p, typical;
  std::optional<int64_t> top_k;
  std::optional<double> presence, frequency, penalty_decay;
  std::string penalty_mode = "rwkv";                  // or "decayed", "openai"
  std::string temperature_order = "last";             // or "first": before the cuts
  std::vector<std::pair<int64_t, float>> logit_bias;  // (id, added to its logit)
  std::vector<int64_t> banned;                        // ids
  std::optional<uint64_t> seed;                       // not set: a new one
};

struct TextOptions {
  int64_t most_tokens = 256;
  std::vector<std::string> stops;  // the text ends before any of them
  Sampling sampling;
};

struct Completion {
  std::string text;  // without the prompt
  // "stop": a stop text; "end": the end of the document; "length": as many tokens as were allowed;
  // "interrupted": by OnText.
  std::string reason;
  int64_t tokens = 0, prompt_tokens = 0;
  uint64_t seed = 0;  // with the same options, machine and threads it gives the same text
  double prompt_seconds = 0, seconds = 0;
};

// How well a model predicts text, as `rookery eval perplexity` defines it (docs/evaluation.md).
struct Evaluation {
  int64_t documents = 0, tokens = 0, bytes = 0;
  double nats_per_token = 0, bits_per_byte = 0, token_perplexity = 0, word_perplexity = 0;
  bool partial = false;  // OnEvaluation ended it: the numbers are those of what was read
};
// Told how many bytes of text have been predicted, of how many. False ends the evaluation.
using OnEvaluation = std::function<bool(int64_t bytes, int64_t total)>;

// Copies share the model.
class LanguageModel {
 public:
  // Loads a model file of any format, or a folder that holds one.
  static LanguageModel load(const std::filesystem::path& path, const LoadOptions& options = {});

  ModelInfo info() const;

  std::vector<int32_t> encode(std::string_view text) const;
  // The bytes of these tokens: not always whole characters.
  std::string decode(std::span<const int32_t> ids) const;

  // The logits [vocabulary] after these tokens, at least one, read from the empty state. Token 0 is
  // the end of a document, and so the start of the next.
  std::vector<float> logits(std::span<const int32_t> ids) const;

  // Continues the prompt. An empty prompt is the start of a document.
  Completion generate(std::string_view prompt, const TextOptions& options = {},
                      const OnText& on_text = {}) const;

  // log p(continuation | context) in nats, each encoded by itself, from the start of a document.
  double log_likelihood(std::string_view context, std::string_view continuation) const;

  // How well the model predicts this text, one document.
  Evaluation evaluate(std::string_view text) const;
  // The same of all documents of text files and .jsonl files.
  Evaluation evaluate_files(std::span<const std::filesystem::path> files,
                            const OnEvaluation& on_progress = {}) const;

 private:
  friend class Chat;
  struct Parts;
  explicit LanguageModel(std::shared_ptr<const Parts> parts);
  std::shared_ptr<const Parts> parts_;
};

struct ChatOptions {
  // "world", "raven" or "plain". Empty: by the model's vocabulary.
  std::string chat_template;
  std::optional<std::string> user, assistant;  // the speakers of "plain": User and Assistant
  std::string system;                          // what the conversation begins with
  // RWKV-7: "off", "on", "think", "bit", "lot" or "fast" (docs/chat.md).
  std::string think = "off";
  int64_t most_tokens = 1000;      // of an answer
  std::vector<std::string> stops;  // of an answer, instead of the template's
  Sampling sampling;
};

struct Reply {
  std::string text, thought;
  std::string reason;  // as in Completion
  // False: interrupted before the answer began. The conversation is as it was before the question.
  bool kept = true;
  int64_t tokens = 0, prompt_tokens = 0;
};

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::string text, thought;
};

// A conversation. Its history is the model's state: no turn is read twice.
class Chat {
 public:
  explicit Chat(const LanguageModel& model, const ChatOptions& options = {});
  Chat(Chat&&) noexcept;
  Chat& operator=(Chat&&) noexcept;
  ~Chat();

  // If it throws, the conversation is as it was.
  Reply ask(std::string_view question, const OnText& on_text = {});
  // Answers the last question again, with other random numbers.
  Reply retry(const OnText& on_text = {});
  // Forgets the last question and its answer; returns the question.
  std::string undo();
  // Begins anew with this system text (none if it is empty).
  void reset(std::string_view system = {});

  // The whole conversation, in a file that `rookery chat` reads, too. Only the model that made it
  // can go on with it.
  void save(const std::filesystem::path& path) const;
  void load(const std::filesystem::path& path);

  std::vector<Message> messages() const;
  int64_t tokens() const;  // read since the beginning

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

struct TrainingOptions {
  // Text files and .jsonl files, or one name of data that `rookery data prepare` made.
  std::vector<std::filesystem::path> data;
  std::vector<std::filesystem::path> validation_data;  // empty: a hundredth of the data is held out
  // Of the data, as in LoadOptions. Empty: the model's or the prepared data's, else bytes.
  std::string tokenizer;

  // The model to start from. Empty: a fresh one of the sizes below.
  std::filesystem::path model;
  std::string generation = "4";
  int64_t layers = 6, width = 192;
  int64_t vocabulary = 0;  // 0: the tokenizer's

  int64_t steps = 1000;
  double minutes = 0;                                   // above 0: as many steps as fit into them
  int64_t context = 256, batch = 16, accumulation = 1;  // tokens a window, windows, micro-batches
  double learning_rate = 1e-3, final_learning_rate = 1e-4;  // a cosine between them
  int64_t warmup_steps = 50;                                // at most a tenth of all
  double weight_decay = 0;                                  // of matrices
  double dropout = 0;
  uint64_t seed = 1;

  int64_t checkpoint_every = 200, validate_every = 100;  // steps; 0: only at the end
  std::string device = "auto";
  std::string dtype = "auto";  // of products: "f32", "bf16", or "auto": bf16 on a GPU, else f32
  int threads = 0;
};

// What a run says after each step. Losses are in nats per token.
struct TrainingProgress {
  int64_t step = 0, last_step = 0;
  double loss = 0, mean_loss = 0;         // of this step, and of the last ones, weighted
  std::optional<double> validation_loss;  // the last one, once there is one
  double learning_rate = 0, gradient_norm = 0, tokens_per_second = 0;
};
// False stops the run after this step: it is saved and can be resumed.
using OnTraining = std::function<bool(const TrainingProgress& progress)>;

struct TrainingResult {
  int64_t step = 0, last_step = 0, tokens_seen = 0;
  double mean_loss = 0;
  std::optional<double> validation_loss;
  std::filesystem::path checkpoint;
  std::filesystem::path model;  // empty if the run was stopped before its last step
};

// Trains into a folder that holds no run yet: checkpoints, metrics.jsonl, a learning curve and,
// after the last step, the model, which LanguageModel::load() finds there.
TrainingResult train(const std::filesystem::path& folder, const TrainingOptions& options,
                     const OnTraining& on_step = {});

struct ResumeTrainingOptions {
  int64_t steps = 0;  // above 0: another length of the run
  std::string device = "auto";
  int threads = 0;
};

// Goes on with a run that was stopped, with the same numbers as if it had not been.
TrainingResult resume_training(const std::filesystem::path& folder,
                               const ResumeTrainingOptions& options = {},
                               const OnTraining& on_step = {});

}  // namespace rookery
