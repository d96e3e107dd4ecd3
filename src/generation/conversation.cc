#include "generation/conversation.h"

#include <algorithm>
#include <cassert>
#include <optional>
#include <utility>

#include "core/error.h"
#include "text/utf8_stream.h"

namespace rookery {
namespace {

constexpr size_t kMostBranches = 32;
constexpr int64_t kMostUndoSteps = 1000;  // each has a mapping of its own
constexpr std::string_view kSystem = "system", kUser = "user", kAssistant = "assistant";

// Shows an answer from its first visible character on: the model begins with a space, and after
// "</think" with the missing '>'.
class Display {
 public:
  Display(const Conversation::Show& show, const ThinkMode& think) : show_(show) {
    mark_ = think.begun.find("</") != std::string_view::npos;
    if (!mark_ && !think.begun.empty()) push(think.begun);
  }

  void push(std::string_view text) {
    while (!begun_ && !text.empty()) {
      const char c = text.front();
      const bool skipped = c == ' ' || c == '\n' || c == '\t' || (mark_ && c == '>');
      if (mark_ && c == '>') mark_ = false;
      begun_ = !skipped;
      if (skipped) text.remove_prefix(1);
    }
    if (!text.empty()) show_(text);
  }

 private:
  const Conversation::Show& show_;
  bool begun_ = false, mark_ = false;
};

}  // namespace

Conversation::Conversation(const Model& model, ThreadPool& pool, const Tokenizer& tokenizer,
                           ChatTemplate chat, SamplerOptions sampling, ConversationOptions options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(std::move(options)),
      session_(model, pool, options_.deterministic),
      sampler_(std::move(sampling)) {
  branch_.chat = std::move(chat);
}

std::string Conversation::system() const {
  const auto& messages = branch_.messages;
  return messages.empty() || messages.front().role != kSystem ? "" : messages.front().text;
}

int64_t Conversation::most_undo_steps() const {
  const int64_t bytes = std::max<int64_t>(session_.state().slot_bytes(), 1);
  return std::clamp<int64_t>(options_.undo_bytes / bytes, 1, kMostUndoSteps);
}

std::shared_ptr<const Conversation::Snapshot> Conversation::snapshot() const {
  return std::make_shared<const Snapshot>(Snapshot{session_.state(), session_.position(),
                                                   branch_.messages.size(), branch_.ids.size(),
                                                   sampler_.state().random_position});
}

void Conversation::restore(const Snapshot& snapshot) {
  session_.set_state(snapshot.state, snapshot.tokens);
  branch_.messages.resize(snapshot.messages);
  branch_.ids.resize(snapshot.ids);
  set_random_position(snapshot.random_position);
}

// Penalties concern one answer, so that between answers only the position is left.
void Conversation::set_random_position(uint64_t position) { sampler_.restore({position, {}}); }

Conversation::Branch Conversation::copy() const {
  Branch copied = branch_;
  copied.state = session_.state();
  copied.tokens = session_.position();
  return copied;
}

void Conversation::take(Branch branch) {
  session_.set_state(branch.state, branch.tokens);
  branch_ = std::move(branch);
  branch_.state = State();
}

bool Conversation::begin(std::string_view system, const Stop& stop) {
  Branch fresh;
  fresh.chat = branch_.chat;
  fresh.state = State(model_.state_layout(), 1);
  const std::string text = clean_message(system);
  if (!text.empty()) {
    fresh.messages.push_back({std::string(kSystem), text, ""});
    encode_chat(fresh.chat, tokenizer_, system_block(fresh.chat, text), fresh.ids);
  }
  Branch before = copy();
  take(std::move(fresh));
  if (branch_.ids.empty() || !read_prompt(session_, branch_.ids, {.stop = stop}).empty())
    return true;
  take(std::move(before));
  return false;
}

Answer Conversation::ask(std::string_view question, const Show& show, const Stop& stop) {
  const std::string text = clean_message(question);
  check(!text.empty()) ||
      fail("there is nothing to answer: the message holds no visible character");
  auto before = snapshot();
  Answer answer;
  try {
    answer = exchange(text, show, stop);
  } catch (...) {
    restore(*before);
    throw;
  }
  if (!answer.kept) {
    restore(*before);
    return answer;
  }
  branch_.undo.push_back(std::move(before));
  while (undo_steps() > most_undo_steps()) {
    branch_.undo.pop_front();
    ++branch_.forgotten;
  }
  return answer;
}

Answer Conversation::exchange(const std::string& question, const Show& show, const Stop& stop) {
  const ChatTemplate& chat = branch_.chat;
  std::vector<int32_t> prompt;
  encode_chat(chat, tokenizer_, user_block(chat, question, options_.think), prompt);

  std::vector<int32_t> made;
  std::vector<size_t> begins;  // where the bytes of each token begin
  std::string bytes;           // of all of them
  size_t certain = 0;          // of these so many cannot be part of a stop
  // Before the token that byte number `certain` belongs to, or before an earlier one.
  struct Mark {
    State state;
    int64_t position = 0;
    size_t have_read = 0;  // tokens
  };
  std::optional<Mark> mark;
  Display display(show, options_.think);
  const auto take_piece = [&](const Piece& piece) {
    made.push_back(static_cast<int32_t>(piece.choice.id));
    begins.push_back(bytes.size());
    bytes += piece.bytes;
    certain = static_cast<size_t>(piece.certain_bytes);
    // The session reads a token when the next one is wanted.
    if (certain >= begins.back() && certain < bytes.size()) {
      mark = {session_.state(), session_.position(), made.size() - 1};
    }
    display.push(piece.text);
  };
  set_random_position(sampler_.state().random_position);
  Generator generator(sampler_, &tokenizer_,
                      {.most_tokens = options_.most_tokens,
                       .stops = options_.stops.empty() ? chat_stops(chat) : options_.stops});
  const Generated generated =
      generate(session_, generator, prompt, {.piece = take_piece, .stop = stop});

  Answer answer;
  answer.reason = generated.reason;
  answer.tokens = generated.tokens;
  answer.prompt_tokens = static_cast<int64_t>(prompt.size());
  answer.kept = generated.tokens > 0 || generated.reason != EndReason::kInterrupted;
  if (!answer.kept) return answer;

  size_t end = certain;  // of the answer
  if (answer.reason != EndReason::kStop) {
    end = bytes.size();
    while (end > certain && bytes[end - 1] == '\n') --end;
  }
  std::string_view shown = generated.rest;
  while (shown.ends_with('\n')) shown.remove_suffix(1);
  display.push(shown);

  size_t have_read = made.size() - (generated.unread ? 1 : 0);
  begins.push_back(bytes.size());
  size_t whole = 0;  // tokens that hold nothing but the answer
  while (whole < made.size() && begins[whole + 1] <= end) ++whole;
  if (whole < have_read) {
    assert(mark && mark->have_read <= whole);
    session_.set_state(mark->state, mark->position);
    have_read = mark->have_read;
  }
  std::vector<int32_t> rest;
  encode_chat(chat, tokenizer_,
              bytes.substr(begins[whole], end - begins[whole]) + std::string(kTurnEnd), rest);
  made.resize(whole);
  made.insert(made.end(), rest.begin(), rest.end());
  session_.feed(std::span<const int32_t>(made).subspan(have_read));

  branch_.ids.insert(branch_.ids.end(), prompt.begin(), prompt.end());
  branch_.ids.insert(branch_.ids.end(), made.begin(), made.end());
  ChatAnswer split =
      split_answer(printable(std::string(options_.think.begun) + bytes.substr(0, end)));
  answer.text = std::move(split.text);
  answer.thought = std::move(split.thought);
  branch_.messages.push_back({std::string(kUser), question, ""});
  branch_.messages.push_back({std::string(kAssistant), answer.text, answer.thought});
  set_random_position(sampler_.state().random_position);
  return answer;
}

std::string Conversation::undo() {
  check(!branch_.undo.empty() || branch_.forgotten == 0) ||
      fail("nothing more can be undone: {} older steps are gone, as {} are kept at most",
           branch_.forgotten, most_undo_steps());
  check(!branch_.undo.empty()) ||
      fail("nothing can be undone: the conversation has just begun or was loaded");
  const std::shared_ptr<const Snapshot> before = branch_.undo.back();
  const std::string question = branch_.messages[before->messages].text;
  branch_.undo.pop_back();
  restore(*before);
  return question;
}

Answer Conversation::retry(const Show& show, const Stop& stop) {
  check(!branch_.undo.empty()) || fail("there is no question yet to answer again");
  Branch now = copy();
  const uint64_t position = sampler_.state().random_position;
  Answer answer;
  try {
    const std::string question = undo();
    set_random_position(position);
    answer = ask(question, show, stop);
  } catch (...) {
    take(std::move(now));
    set_random_position(position);
    throw;
  }
  if (!answer.kept) take(std::move(now));
  return answer;
}

void Conversation::fork(std::string_view name) {
  check(!name.empty() && name.size() <= 64 && clean_message(name) == name &&
        name.find_first_of(" \t\n") == std::string_view::npos) ||
      fail("'{}' cannot name a conversation: expected 1 to 64 bytes without spaces",
           printable(name));
  check(name != branch_name_) || fail("you are in '{}' already: choose another name", name);
  check(kept_.size() < kMostBranches || kept_.contains(name)) ||
      fail("{} conversations are kept already, the most there can be: use one of their names again",
           kMostBranches);
  kept_.insert_or_assign(std::string(name), copy());
}

void Conversation::switch_to(std::string_view name) {
  if (name == branch_name_) return;
  const auto found = kept_.find(name);
  if (found == kept_.end()) {
    std::string known = branch_name_;
    for (const auto& [other, branch] : kept_) known += ", " + other;
    fail("no conversation is called '{}': there are {}", printable(name), known);
  }
  Branch next = std::move(found->second);
  kept_.erase(found);
  kept_.insert_or_assign(branch_name_, copy());
  branch_name_ = name;
  take(std::move(next));
}

std::vector<Conversation::BranchInfo> Conversation::branches() const {
  std::map<std::string, BranchInfo> all;
  const auto add = [&](const std::string& name, const Branch& branch, int64_t tokens,
                       bool current) {
    all[name] = {name, static_cast<int64_t>(branch.messages.size()), tokens, current};
  };
  add(branch_name_, branch_, tokens(), true);
  for (const auto& [name, branch] : kept_) add(name, branch, branch.tokens, false);
  std::vector<BranchInfo> list;
  for (auto& [name, info] : all) list.push_back(std::move(info));
  return list;
}

void Conversation::set_sampling(const SamplerOptions& sampling) {
  Sampler changed(sampling);
  const bool same = sampling.seed == sampler_.options().seed;
  changed.restore({same ? sampler_.state().random_position : 0, {}});
  sampler_ = std::move(changed);
}

SavedState Conversation::saved() const {
  SavedState state = saved_state(model_, &tokenizer_, session_.state(), session_.position());
  state.sampler = saved_sampler(sampler_);
  state.chat = {branch_.chat.name, branch_.chat.user, branch_.chat.assistant, branch_.messages};
  return state;
}

void Conversation::load(const SavedState& saved, bool sampler) {
  Branch loaded;
  loaded.chat = branch_.chat;
  if (saved.chat) {
    loaded.chat = chat_template(saved.chat->template_name, saved.chat->user, saved.chat->assistant);
    loaded.messages = saved.chat->messages;
  }
  loaded.state = state_of(saved, model_);
  loaded.tokens = saved.tokens;
  if (sampler && saved.sampler) {
    SamplerOptions options = sampler_.options();
    options.seed = saved.sampler->seed;
    set_sampling(options);
    set_random_position(saved.sampler->random_position);
  }
  take(std::move(loaded));
}

}  // namespace rookery
