// The state of a conversation against that of a model which reads the whole transcript in one go,
// bit for bit.
#include "generation/conversation.h"

#include <gtest/gtest.h>

#include <cstring>

#include "checking/files_for_tests.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

// Bytes, and some longer tokens as GPT-NeoX and World have them: the longest match counts.
class PairTokenizer final : public Tokenizer {
 public:
  std::string_view name() const override { return "pairs"; }
  int64_t vocab_size() const override { return 256 + static_cast<int64_t>(std::size(kLong)); }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override {
    while (!text.empty()) {
      int32_t id = static_cast<unsigned char>(text.front());
      for (size_t i = 0; i < std::size(kLong); ++i) {
        if (text.starts_with(kLong[i]) && kLong[i].size() > bytes_of(id).size()) {
          id = 256 + static_cast<int32_t>(i);
        }
      }
      text.remove_prefix(bytes_of(id).size());
      ids.push_back(id);
    }
  }
  std::string_view bytes_of(int32_t id) const override {
    return id >= 256 ? kLong[id - 256] : id == 0 ? "" : bytes_.bytes_of(id);
  }
  std::string definition() const override { return "pairs"; }

  static constexpr std::string_view kLong[] = {"\n\n", ".\n\n", "\n\n\n", "\nU",
                                               "ser",  "ser:",  "x\n"};
  static constexpr int32_t kBlank = 256, kDotBlank = 257, kThree = 258, kLineU = 259, kSer = 260,
                           kSerColon = 261, kXLine = 262;

 private:
  ByteTokenizer bytes_;
};

class ConversationTest : public ::testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 263;

  Conversation make(const char* chat = "world", SamplerOptions sampling = {.seed = 7},
                    ConversationOptions options = {}) {
    options.deterministic = true;
    if (options.most_tokens == 1000) options.most_tokens = 40;
    return Conversation(model_, pool_, tokenizer_, chat_template(chat), sampling, options);
  }

  // The state after these ids, read in one go from the beginning.
  State state_after(const std::vector<int32_t>& ids) {
    Session session(model_, pool_, true);
    if (!ids.empty()) session.feed(ids);
    return session.state();
  }
  static bool equal(const State& a, const State& b) {
    return a.slot_bytes() == b.slot_bytes() &&
           std::memcmp(a.slot(0).data, b.slot(0).data, a.slot_bytes()) == 0;
  }
  void expect_exact(const Conversation& conversation) {
    EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
    EXPECT_EQ(conversation.tokens(), static_cast<int64_t>(conversation.transcript().size()));
    EXPECT_EQ(text_of(conversation), expected_text(conversation));
  }
  std::string text_of(const Conversation& conversation) const {
    return tokenizer_.decode(conversation.transcript());
  }
  // The transcript by the messages alone. Answers are as the model made them, so that spaces at
  // their ends are dropped from both.
  static std::string expected_text(const Conversation& conversation) {
    const ChatTemplate& chat = conversation.chat();
    std::string text;
    for (const SavedMessage& message : conversation.messages()) {
      if (message.role == "system") text += system_block(chat, message.text);
      if (message.role == "user") text += user_block(chat, message.text);
      if (message.role == "assistant") text += message.text + "\n\n";
    }
    return text;
  }

  // A sampler that makes exactly these tokens, and then token 0.
  std::string script(const std::vector<int32_t>& ids, const char* chat, int64_t most,
                     std::string_view reason, std::vector<int32_t>* kept = nullptr) {
    // The model cannot be made to say a text, so a stop function counts the tokens and changes the
    // bias before each.
    Conversation* current = nullptr;
    ConversationOptions options;
    options.most_tokens = most;
    Conversation conversation = make(chat, {.temperature = 0, .logit_bias = {{0, 1e6f}}}, options);
    current = &conversation;
    std::string shown;
    int asked = 0;
    const auto stop = [&] {
      // The first time: before the prompt.
      const int next = asked++ - 1;
      if (next < 0) return false;
      const int32_t id = next < static_cast<int>(ids.size()) ? ids[next] : 0;
      if (id < 0) return true;  // an interruption
      SamplerOptions sampling = current->sampling();
      sampling.logit_bias = {{id, 1e6f}};
      current->set_sampling(sampling);
      return false;
    };
    const Answer answer = conversation.ask(
        "hi", [&](std::string_view text) { shown += text; }, stop);
    EXPECT_EQ(name_of(answer.reason), reason);
    EXPECT_TRUE(answer.kept);
    EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
    EXPECT_EQ(shown.substr(0, shown.find_last_not_of(" \n") + 1), answer.text);
    std::vector<int32_t> prompt;
    encode_chat(conversation.chat(), tokenizer_, user_block(conversation.chat(), "hi"), prompt);
    const auto& all = conversation.transcript();
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), all.begin()));
    if (kept != nullptr) kept->assign(all.begin() + prompt.size(), all.end());
    return shown;
  }

  const Conversation::Show ignore_ = [](std::string_view) {};
  const Conversation::Stop never_ = [] { return false; };
  ThreadPool pool_{1};
  Model model_ =
      Model::initialised(make_config("4", 2, 16, kVocabulary), {.scheme = "random"}, pool_);
  PairTokenizer tokenizer_;
};

using Ids = std::vector<int32_t>;
using P = PairTokenizer;

// What is in the transcript behind the prompt, for each way an answer can end.
TEST_F(ConversationTest, EveryEndLeavesTheTranscriptWithABlankLine) {
  Ids kept;
  EXPECT_EQ(script({' ', 'o', 'k', P::kBlank}, "world", 9, "stop", &kept), "ok");
  EXPECT_EQ(kept, (Ids{' ', 'o', 'k', P::kBlank}));
  // Two line breaks, the first of which was read, become the token of the template.
  EXPECT_EQ(script({'o', '\n', '\n'}, "world", 9, "stop", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', P::kBlank}));
  // The blank line in the middle of tokens. This tokenizer reads "x\n\n" as "x\n" and "\n".
  EXPECT_EQ(script({'o', P::kDotBlank}, "world", 9, "stop", &kept), "o.");
  EXPECT_EQ(kept, (Ids{'o', P::kDotBlank}));
  EXPECT_EQ(script({'o', P::kThree}, "world", 9, "stop", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', P::kBlank}));
  EXPECT_EQ(script({'o', P::kXLine, '\n'}, "world", 9, "stop", &kept), "ox");
  EXPECT_EQ(kept, (Ids{'o', P::kXLine, '\n'}));
  // It speaks for the user: two tokens of that were read already.
  EXPECT_EQ(script({'o', P::kLineU, 's', 'e', 'r', ':'}, "world", 9, "stop", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', P::kBlank}));
  EXPECT_EQ(script({'o', P::kXLine, 'U', P::kSerColon}, "world", 9, "stop", &kept), "ox");
  EXPECT_EQ(kept, (Ids{'o', P::kXLine, '\n'}));
  // It looked like that, but was not.
  EXPECT_EQ(script({'o', P::kLineU, P::kSer, 's'}, "world", 9, "end", &kept), "o\nUsers");
  EXPECT_EQ(kept, (Ids{'o', P::kLineU, P::kSer, 's', P::kBlank}));
  // Token 0 at once, and after something.
  EXPECT_EQ(script({}, "world", 9, "end", &kept), "");
  EXPECT_EQ(kept, (Ids{P::kBlank}));
  EXPECT_EQ(script({'o'}, "world", 9, "end", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', P::kBlank}));
  EXPECT_EQ(script({'o', '\n'}, "world", 9, "end", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', P::kBlank}));
  // Cut by length or interrupted: what was held back belongs to the answer.
  EXPECT_EQ(script({'o', 'k'}, "world", 2, "length", &kept), "ok");
  EXPECT_EQ(kept, (Ids{'o', 'k', P::kBlank}));
  EXPECT_EQ(script({'o', P::kLineU, P::kSer}, "world", 3, "length", &kept), "o\nUser");
  EXPECT_EQ(kept, (Ids{'o', P::kLineU, P::kSer, P::kBlank}));
  EXPECT_EQ(script({'o', P::kXLine, -1}, "world", 9, "interrupted", &kept), "ox");
  EXPECT_EQ(kept, (Ids{'o', P::kXLine, '\n'}));
  // A character that breaks off stays in the transcript and is shown as U+FFFD.
  EXPECT_EQ(script({'o', 0xc3, -1}, "world", 9, "interrupted", &kept), "o\xef\xbf\xbd");
  EXPECT_EQ(kept, (Ids{'o', 0xc3, P::kBlank}));
}

TEST_F(ConversationTest, RavenReadsTwoLineBreaks) {
  Ids kept;
  EXPECT_EQ(script({'o', '\n', '\n'}, "raven", 9, "stop", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', '\n', '\n'}));
  EXPECT_EQ(script({'o', P::kDotBlank}, "raven", 9, "stop", &kept), "o.");
  EXPECT_EQ(kept, (Ids{'o', '.', '\n', '\n'}));
  EXPECT_EQ(script({'o'}, "raven", 9, "end", &kept), "o");
  EXPECT_EQ(kept, (Ids{'o', '\n', '\n'}));
}

TEST_F(ConversationTest, StateIsThatOfTheTranscript) {
  for (const char* chat : {"world", "raven", "plain"}) {
    Conversation conversation = make(chat);
    ASSERT_TRUE(conversation.begin("Be\r\n\r\nbrief.", never_));
    EXPECT_EQ(conversation.system(), "Be\nbrief.");
    EXPECT_EQ(text_of(conversation), system_block(conversation.chat(), "Be\nbrief."));
    int stopped = 0;
    for (int turn = 0; turn < 30; ++turn) {
      const Answer answer =
          conversation.ask(fmt::format("question {}\n\n?", turn), ignore_, never_);
      stopped += answer.reason == EndReason::kStop ? 1 : 0;
      EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
      EXPECT_EQ(conversation.tokens(), static_cast<int64_t>(conversation.transcript().size()));
    }
    EXPECT_EQ(conversation.messages().size(), 61u);
    EXPECT_GT(stopped, 0) << "no stop was tested";
    EXPECT_TRUE(text_of(conversation).ends_with("\n\n"));
  }
}

// All random tokens, so that the text of the answers is read back.
TEST_F(ConversationTest, TranscriptIsTheMessages) {
  std::vector<std::pair<int64_t, float>> letters;
  for (int64_t id = 'a'; id <= 'z'; ++id) letters.emplace_back(id, 100.0f);
  for (const int32_t id : {P::kBlank, P::kDotBlank, P::kThree}) letters.emplace_back(id, 100.0f);
  Conversation conversation = make("world", {.logit_bias = letters, .seed = 3});
  for (int turn = 0; turn < 10; ++turn) {
    conversation.ask("q", ignore_, never_);
    expect_exact(conversation);
  }
}

TEST_F(ConversationTest, UndoAndRetry) {
  Conversation conversation = make();
  EXPECT_THROW(conversation.undo(), Error);
  EXPECT_THROW(conversation.retry(ignore_, never_), Error);
  conversation.begin("s", never_);
  conversation.ask("one", ignore_, never_);
  const State after_one = conversation.state();
  const auto ids = conversation.transcript();
  const Answer first = conversation.ask("two", ignore_, never_);
  EXPECT_EQ(conversation.undo(), "two");
  EXPECT_TRUE(equal(conversation.state(), after_one));
  EXPECT_EQ(conversation.transcript(), ids);
  EXPECT_EQ(conversation.messages().size(), 3u);
  // As if it had never been asked: the same random numbers.
  EXPECT_EQ(conversation.ask("two", ignore_, never_).text, first.text);
  // Others.
  const Answer second = conversation.retry(ignore_, never_);
  EXPECT_NE(second.text, first.text);
  EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
  EXPECT_EQ(conversation.messages().size(), 5u);
  EXPECT_EQ(conversation.undo(), "two");
  EXPECT_TRUE(equal(conversation.state(), after_one));
  EXPECT_EQ(conversation.undo(), "one");
  EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
  EXPECT_EQ(conversation.messages().size(), 1u);
  EXPECT_THROW(conversation.undo(), Error);
}

TEST_F(ConversationTest, OldStepsAreForgotten) {
  ConversationOptions options;
  options.undo_bytes = 3 * State(model_.state_layout(), 1).slot_bytes();
  Conversation conversation = make("world", {.seed = 7}, options);
  EXPECT_EQ(conversation.most_undo_steps(), 3);
  for (const char* question : {"a", "b", "c", "d", "e"})
    conversation.ask(question, ignore_, never_);
  EXPECT_EQ(conversation.undo(), "e");
  EXPECT_EQ(conversation.undo(), "d");
  EXPECT_EQ(conversation.undo(), "c");
  try {
    conversation.undo();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("2 older steps are gone"), std::string::npos);
  }
  EXPECT_EQ(conversation.messages().size(), 4u);
  EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
  // One step is kept, however large.
  options.undo_bytes = 0;
  Conversation single = make("world", {.seed = 7}, options);
  single.ask("a", ignore_, never_);
  EXPECT_EQ(single.undo(), "a");
}

TEST_F(ConversationTest, Branches) {
  Conversation conversation = make();
  conversation.ask("one", ignore_, never_);
  conversation.fork("side");
  const State fork = conversation.state();
  conversation.ask("two", ignore_, never_);
  const State two = conversation.state();
  conversation.switch_to("side");
  EXPECT_TRUE(equal(conversation.state(), fork));
  EXPECT_EQ(conversation.messages().size(), 2u);
  conversation.ask("three", ignore_, never_);
  EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
  const State three = conversation.state();
  conversation.switch_to("main");
  EXPECT_TRUE(equal(conversation.state(), two));
  EXPECT_EQ(conversation.undo(), "two");
  EXPECT_TRUE(equal(conversation.state(), fork));
  conversation.switch_to("side");
  EXPECT_TRUE(equal(conversation.state(), three));
  EXPECT_EQ(conversation.undo(), "three");
  EXPECT_EQ(conversation.undo(), "one");
  conversation.switch_to("side");
  const auto list = conversation.branches();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "main");
  EXPECT_FALSE(list[0].current);
  EXPECT_EQ(list[0].messages, 2);
  EXPECT_TRUE(list[1].current);
  for (const char* name : {"", "side", "a b", "\x1b[1m"}) {
    EXPECT_THROW(conversation.fork(name), Error) << name;
  }
  EXPECT_THROW(conversation.switch_to("nowhere"), Error);
  for (int i = 0; i < 31; ++i) conversation.fork(fmt::format("b{}", i));
  EXPECT_THROW(conversation.fork("more"), Error);
  conversation.fork("b0");  // replaced
}

TEST_F(ConversationTest, InterruptedBeforeTheAnswerNothingChanges) {
  Conversation conversation = make();
  conversation.ask("one", ignore_, never_);
  const State before = conversation.state();
  const auto ids = conversation.transcript();
  const std::string long_question(2000, 'x');  // several chunks
  for (const int after : {0, 2, 4}) {
    int asked = 0;
    const Answer answer =
        conversation.ask(long_question, ignore_, [&] { return asked++ >= after; });
    EXPECT_FALSE(answer.kept);
    EXPECT_EQ(answer.reason, EndReason::kInterrupted);
    EXPECT_TRUE(equal(conversation.state(), before));
    EXPECT_EQ(conversation.transcript(), ids);
    EXPECT_EQ(conversation.undo_steps(), 1);
    asked = 0;
    EXPECT_FALSE(conversation.retry(ignore_, [&] { return true; }).kept);
    EXPECT_TRUE(equal(conversation.state(), before));
    EXPECT_EQ(conversation.messages().size(), 2u);
    EXPECT_EQ(conversation.undo_steps(), 1);
    EXPECT_FALSE(conversation.begin("system", [] { return true; }));
    EXPECT_TRUE(equal(conversation.state(), before));
    EXPECT_EQ(conversation.messages().size(), 2u);
  }
}

TEST_F(ConversationTest, ErrorsChangeNothing) {
  Conversation conversation = make();
  conversation.ask("one", ignore_, never_);
  const State before = conversation.state();
  EXPECT_THROW(conversation.ask(" \n\x01\r\n ", ignore_, never_), Error);
  const Conversation::Show full = [](std::string_view) { fail("the disk is full"); };
  EXPECT_THROW(conversation.ask("two", full, never_), Error);
  EXPECT_TRUE(equal(conversation.state(), before));
  EXPECT_THROW(conversation.retry(full, never_), Error);
  EXPECT_TRUE(equal(conversation.state(), before));
  EXPECT_EQ(conversation.messages().size(), 2u);
  SamplerOptions bad;
  bad.top_p = 2;
  EXPECT_THROW(conversation.set_sampling(bad), Error);
  EXPECT_EQ(conversation.sampling().top_p, 1);
}

TEST_F(ConversationTest, SavedConversationsGoOnTheSame) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "talk.state";
  Conversation whole = make("raven", {.seed = 11});
  whole.begin("s", never_);
  whole.ask("one", ignore_, never_);
  write_state_file(path, whole.saved());

  Conversation other = make("world", {.seed = 99});
  other.ask("something else", ignore_, never_);
  other.load(load_state(path, model_, &tokenizer_), true);
  EXPECT_EQ(other.chat().name, "raven");
  EXPECT_EQ(other.system(), "s");
  EXPECT_EQ(other.sampling().seed, 11u);
  EXPECT_EQ(other.tokens(), whole.tokens());
  EXPECT_EQ(other.messages().size(), 3u);
  EXPECT_TRUE(equal(other.state(), whole.state()));
  EXPECT_THROW(other.undo(), Error);
  for (const char* question : {"two", "three"}) {
    EXPECT_EQ(other.ask(question, ignore_, never_).text, whole.ask(question, ignore_, never_).text);
    EXPECT_TRUE(equal(other.state(), whole.state()));
  }
  // A template that there is not changes nothing.
  SavedState odd = whole.saved();
  odd.chat->template_name = "odd";
  const State before = other.state();
  EXPECT_THROW(other.load(odd, true), Error);
  EXPECT_TRUE(equal(other.state(), before));
  EXPECT_EQ(other.messages().size(), 7u);
}

TEST_F(ConversationTest, StatesOfOtherModelsAreRefused) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.state";
  const auto expect = [&](const Model& model, const Tokenizer* tokenizer, const char* words) {
    try {
      load_state(path, model, tokenizer);
      FAIL() << words;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  SavedState saved = make().saved();
  write_state_file(path, saved);
  EXPECT_EQ(load_state(path, model_, &tokenizer_).tokens, 0);
  EXPECT_EQ(load_state(path, model_, nullptr).tokens, 0);
  const ByteTokenizer bytes;
  expect(model_, &bytes, "made with the tokenizer pairs");
  expect(Model::initialised(make_config("4", 2, 16, kVocabulary), {.scheme = "random", .seed = 2},
                            pool_),
         &tokenizer_, "the fingerprint does not");
  expect(Model::initialised(make_config("4", 3, 16, kVocabulary), {}, pool_), &tokenizer_,
         "its layers is 2, the model has layers 3");
  expect(Model::initialised(make_config("4", 2, 32, kVocabulary), {}, pool_), &tokenizer_,
         "its width is 16");
  saved.generation = "7";
  write_state_file(path, saved);
  expect(model_, &tokenizer_, "it is of RWKV-7, the model is RWKV-4");
  saved.generation = "4";
  saved.items[1].values.pop_back();
  write_state_file(path, saved);
  expect(model_, &tokenizer_, "does not have");
  saved.items.pop_back();
  write_state_file(path, saved);
  expect(model_, &tokenizer_, "does not have");
}

// The modes of generation 7, with a model that has never heard of them.
TEST_F(ConversationTest, ThoughtsAreShownAndSplitOff) {
  ConversationOptions options;
  options.think = think_mode("bit", "7");
  Conversation conversation = make("world", {.seed = 7}, options);
  std::string shown;
  const Answer answer = conversation.ask(
      "hi", [&](std::string_view text) { shown += text; }, never_);
  EXPECT_TRUE(shown.starts_with("<think")) << shown;
  EXPECT_EQ(answer.text, "");
  EXPECT_TRUE(text_of(conversation).starts_with("User: hi (think a bit)\n\nAssistant: <think"));
  EXPECT_EQ(conversation.messages()[0].text, "hi");
  EXPECT_TRUE(equal(conversation.state(), state_after(conversation.transcript())));
}

}  // namespace
}  // namespace rookery
