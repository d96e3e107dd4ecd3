// A conversation with a model: questions in, answers out, and what happens between, without a
// terminal. Its history is the model's state; nothing is read twice but what undo makes unsaid.
//
// After every answer the state is exactly that of a model that has read the transcript
//   USER: question\n\nASSISTANT: answer\n\n
// and nothing behind it, whatever ended the answer:
//   * a stop text: the model has already read its beginning when its end shows what it is. The
//     state from before the first token of it is put back, and then the rest of the answer and the
//     blank line are read, as the template encodes them;
//   * token 0, the limit of tokens, an interruption: what was held back belongs to the answer, but
//     for line breaks at its end; the blank line is read.
// transcript() are the ids that were read.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "generation/generator.h"
#include "generation/saved_state.h"
#include "inference/sampler.h"
#include "inference/session.h"
#include "models/model.h"
#include "text/chat_template.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct ConversationOptions {
  int64_t most_tokens = 1000;  // of an answer
  ThinkMode think = kThinkModes[0];
  std::vector<std::string> stops;          // instead of the template's; empty: those
  int64_t undo_bytes = int64_t{64} << 20;  // of states kept for undo(); one is always kept
  bool deterministic = false;
};

struct Answer {
  std::string text, thought;
  EndReason reason = EndReason::kInterrupted;
  int64_t tokens = 0, prompt_tokens = 0;
  // False: interrupted before the answer began. The conversation is as it was before the question.
  bool kept = true;
};

class Conversation {
 public:
  // Takes pieces of an answer as they come: valid UTF-8.
  using Show = std::function<void(std::string_view)>;
  // Asked before every token and every chunk of a prompt: whether to stop.
  using Stop = std::function<bool()>;

  // The model, the pool and the tokenizer must outlive this. Starts empty, in the branch "main".
  Conversation(const Model& model, ThreadPool& pool, const Tokenizer& tokenizer, ChatTemplate chat,
               SamplerOptions sampling, ConversationOptions options = {});

  // Forgets everything but the other branches, and reads a system text (none if it is empty).
  // False: interrupted, and the conversation is as it was.
  bool begin(std::string_view system, const Stop& stop);

  // Throws Error if nothing remains of the question after cleaning, and whatever the sampler or
  // `show` throws; then the conversation is as it was.
  Answer ask(std::string_view question, const Show& show, const Stop& stop);

  // Drops the last question and its answer; the state and the random numbers are what they were
  // before. Returns the question. Throws Error if there is none, or its state is not kept any more.
  std::string undo();

  // Answers the last question again, with other random numbers. Errors as for undo() and ask().
  Answer retry(const Show& show, const Stop& stop);

  // Keeps a copy of the conversation under this name; one of that name is replaced. Throws Error
  // for the name of the current branch, an empty one or one with spaces, and for too many.
  void fork(std::string_view name);
  // Goes on with that copy. The current conversation is kept under its own name. Throws Error if
  // there is none of that name.
  void switch_to(std::string_view name);
  struct BranchInfo {
    std::string name;
    int64_t messages = 0, tokens = 0;
    bool current = false;
  };
  std::vector<BranchInfo> branches() const;  // by name

  // With another seed the random numbers begin anew. Throws Error as validate() does.
  void set_sampling(const SamplerOptions& sampling);
  const SamplerOptions& sampling() const { return sampler_.options(); }

  // All of the current branch but undo.
  SavedState saved() const;
  // What load_state() gave takes the place of the current branch. Of a state that was not saved by
  // a chat the template stays, and the transcript is empty. The random numbers go on as they were
  // saved, too, if `sampler` says so. Throws Error, and changes nothing, if the file names a
  // template that there is not.
  void load(const SavedState& saved, bool sampler);

  const ChatTemplate& chat() const { return branch_.chat; }
  const std::vector<SavedMessage>& messages() const { return branch_.messages; }
  std::string system() const;  // empty: none
  // Ids read since the conversation began or was loaded.
  const std::vector<int32_t>& transcript() const { return branch_.ids; }
  int64_t tokens() const { return session_.position(); }
  const State& state() const { return session_.state(); }
  int64_t undo_steps() const { return static_cast<int64_t>(branch_.undo.size()); }
  int64_t most_undo_steps() const;
  int64_t forgotten_steps() const { return branch_.forgotten; }
  const std::string& branch() const { return branch_name_; }

 private:
  struct Snapshot {
    State state;
    int64_t tokens = 0;
    size_t messages = 0, ids = 0;
    uint64_t random_position = 0;
  };
  struct Branch {
    ChatTemplate chat;
    std::vector<SavedMessage> messages;
    std::vector<int32_t> ids;
    // Before each exchange, oldest first. Branches share them.
    std::deque<std::shared_ptr<const Snapshot>> undo;
    int64_t forgotten = 0;  // older ones that are gone
    State state;            // of a branch that is not the current one
    int64_t tokens = 0;
  };

  std::shared_ptr<const Snapshot> snapshot() const;
  void restore(const Snapshot& snapshot);
  Branch copy() const;
  void take(Branch branch);
  void set_random_position(uint64_t position);
  Answer exchange(const std::string& question, const Show& show, const Stop& stop);

  const Model& model_;
  const Tokenizer& tokenizer_;
  ConversationOptions options_;
  Session session_;
  Sampler sampler_;
  Branch branch_;
  std::string branch_name_ = "main";
  std::map<std::string, Branch, std::less<>> kept_;
};

}  // namespace rookery
