#include <utility>

#include "core/error.h"
#include "facade/language_model.h"
#include "formats/state_file.h"
#include "generation/conversation.h"
#include "generation/saved_state.h"
#include "text/chat_template.h"

namespace rookery {
namespace {

// Passes text on until the caller wants no more.
class Listener {
 public:
  explicit Listener(const OnText& on_text) : on_text_(on_text) {}
  Conversation::Show show() {
    return [this](std::string_view text) { wanted_ = !on_text_ || on_text_(text); };
  }
  Conversation::Stop stop() const {
    return [this] { return !wanted_; };
  }

 private:
  const OnText& on_text_;
  bool wanted_ = true;
};

Reply reply_of(Answer answer) {
  return {.text = std::move(answer.text),
          .thought = std::move(answer.thought),
          .reason = std::string(name_of(answer.reason)),
          .kept = answer.kept,
          .tokens = answer.tokens,
          .prompt_tokens = answer.prompt_tokens};
}

bool never() { return false; }

ChatTemplate template_of(const ChatOptions& options, const Tokenizer& tokenizer,
                         const ModelConfig& config) {
  return choose_chat_template(options.chat_template, options.user, options.assistant,
                              tokenizer.name(), config.vocabulary);
}

}  // namespace

struct Chat::Parts {
  Parts(std::shared_ptr<const LanguageModel::Parts> parts, const ChatOptions& options)
      : model(std::move(parts)),
        seed_chosen(options.sampling.seed.has_value()),
        conversation(model->model(), model->pool, model->require_tokenizer(),
                     template_of(options, *model->tokenizer, config()),
                     sampler_options(choices_of(options.sampling), chat_sampling(config()),
                                     config(), model->tokenizer.get()),
                     {.most_tokens = options.most_tokens,
                      .think = think_mode(options.think, config().generation),
                      .stops = options.stops,
                      .deterministic = model->deterministic}) {}

  const ModelConfig& config() const { return model->model().config(); }

  std::shared_ptr<const LanguageModel::Parts> model;
  bool seed_chosen;
  Conversation conversation;
};

Chat::Chat(const LanguageModel& model, const ChatOptions& options)
    : parts_(std::make_unique<Parts>(model.parts_, options)) {
  reset(options.system);
}

Chat::Chat(Chat&&) noexcept = default;
Chat& Chat::operator=(Chat&&) noexcept = default;
Chat::~Chat() = default;

Reply Chat::ask(std::string_view question, const OnText& on_text) {
  Listener listener(on_text);
  return reply_of(parts_->conversation.ask(question, listener.show(), listener.stop()));
}

Reply Chat::retry(const OnText& on_text) {
  Listener listener(on_text);
  return reply_of(parts_->conversation.retry(listener.show(), listener.stop()));
}

std::string Chat::undo() { return parts_->conversation.undo(); }

void Chat::reset(std::string_view system) { parts_->conversation.begin(system, never); }

void Chat::save(const std::filesystem::path& path) const {
  write_state_file(path, parts_->conversation.saved());
}

void Chat::load(const std::filesystem::path& path) {
  const LanguageModel::Parts& model = *parts_->model;
  parts_->conversation.load(load_state(path, model.model(), model.tokenizer.get()),
                            !parts_->seed_chosen);
}

std::vector<Message> Chat::messages() const {
  std::vector<Message> messages;
  for (const SavedMessage& message : parts_->conversation.messages()) {
    messages.push_back({message.role, message.text, message.thought});
  }
  return messages;
}

int64_t Chat::tokens() const { return parts_->conversation.tokens(); }

}  // namespace rookery
