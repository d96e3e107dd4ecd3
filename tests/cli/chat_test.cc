// `rookery chat`, and saved states, as their users meet them.

#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <sstream>
#include <thread>

#include "formats/safetensors.h"
#include "formats/state_file.h"
#include "program_test.h"

namespace rookery {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

class Chat : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    model_ = make_model();
  }

  std::vector<std::string> chat(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"chat",   model_, "--max-tokens",   "20",
                                    "--seed", "1",    "--deterministic"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // One object for each line of input.
  std::vector<Json> talk(const std::string& input, const std::vector<std::string>& more = {},
                         int code = 0) const {
    std::vector<std::string> arguments = chat(more);
    arguments.insert(arguments.end(), {"--json", "-q"});
    const Result result = run(arguments, input);
    EXPECT_EQ(result.code, code) << result.err << result.out;
    EXPECT_EQ(result.err, "");
    std::vector<Json> objects;
    for (const std::string& line : lines_of(result.out)) {
      objects.push_back(Json::parse(line, nullptr, false));
      EXPECT_TRUE(objects.back().is_object()) << line;
    }
    return objects;
  }

  std::string model_;
};

TEST_F(Chat, WrongUsage) {
  expect_refused({"chat"}, 2, "MODEL");
  expect_refused({"chat", model_, "--template", "alpaca"}, 2, "alpaca");
  expect_refused({"chat", model_, "--template", "world", "--user-name", "A"}, 2, "plain");
  expect_refused({"chat", model_, "--user-name", "A", "--assistant-name", "A"}, 2, "two names");
  expect_refused({"chat", model_, "--user-name", "A:"}, 2, "without colons");
  expect_refused({"chat", model_, "--think", "bit"}, 2, "RWKV-4 was not trained to think");
  expect_refused({"chat", model_, "--think", "deep"}, 2, "no way of thinking 'deep'");
  expect_refused({"chat", model_, "--max-tokens", "0"}, 2, "--max-tokens");
  expect_refused({"chat", model_, "--top-p", "2"}, 2, "top-p is 2");
  expect_refused({"chat", model_, "--ban", "256"}, 2, "tokens 0 to 255");
  expect_refused({"chat", model_, "--stop", ""}, 2, "--stop");
  expect_refused({"chat", path("absent")}, 1, "absent");
  const std::string large = make_model("large.safetensors", {"--vocab", "300"});
  expect_refused({"chat", large}, 1, "--tokenizer");
}

TEST_F(Chat, OneLineIsOneQuestion) {
  const Result result = run(chat(), "hello\n\nhow are you?\r\n  \nlast");
  EXPECT_EQ(result.code, 0);
  EXPECT_NE(result.err.find("template plain (User, Assistant), seed 1"), std::string::npos);
  EXPECT_EQ(result.err.find("> "), std::string::npos) << "a prompt without a terminal";
  const auto objects = talk("hello\n\nhow are you?\r\n  \nlast");
  ASSERT_EQ(objects.size(), 3u);
  int64_t position = 0;
  for (const Json& object : objects) {
    EXPECT_TRUE(object.at("reason") == "length" || object.at("reason") == "stop" ||
                object.at("reason") == "end");
    EXPECT_GE(object.at("position"), position + object.at("prompt_tokens").get<int64_t>() + 2);
    position = object.at("position");
  }
  EXPECT_EQ(objects[0].at("prompt_tokens"), std::string("User: hello\n\nAssistant:").size());
  EXPECT_EQ(talk("hello").at(0).at("text"), objects[0].at("text"));
  EXPECT_TRUE(talk("").empty());
}

TEST_F(Chat, SameSeedSameAnswers) {
  const std::string input = "a\nb\nc\n";
  const Result first = run(chat(), input);
  EXPECT_EQ(run(chat(), input).out, first.out);
  std::vector<std::string> other = chat();
  other[5] = "2";
  EXPECT_NE(run(other, input).out, first.out);
  // Without one it is told.
  const Result told = run({"chat", model_, "--max-tokens", "20"}, input);
  const size_t at = told.err.find("seed ");
  ASSERT_NE(at, std::string::npos);
  const std::string seed = std::to_string(std::stoull(told.err.substr(at + 5)));
  SCOPED_TRACE("seed " + seed);
  EXPECT_EQ(run({"chat", model_, "--max-tokens", "20", "--seed", seed}, input).out, told.out);
}

TEST_F(Chat, QuestionsOfSeveralLinesAndOddBytes) {
  const auto several = talk("one\\\ntwo\\\n\\\n\\\nthree\n");
  ASSERT_EQ(several.size(), 1u);
  EXPECT_EQ(several[0].at("prompt_tokens"),
            std::string("User: one\ntwo\nthree\n\nAssistant:").size());
  const auto odd = talk(std::string("a\0b\x1b[1mc\xff\n", 9));
  ASSERT_EQ(odd.size(), 1u);
  EXPECT_EQ(odd[0].at("prompt_tokens"),
            std::string("User: ab[1mc\xef\xbf\xbd\n\nAssistant:").size());
  const auto slash = talk("//help\n");
  EXPECT_EQ(slash.at(0).at("prompt_tokens"), std::string("User: /help\n\nAssistant:").size());
  // A line that never ends.
  const Result endless = run(chat(), std::string(17 << 20, 'x'));
  EXPECT_EQ(endless.code, 1);
  EXPECT_NE(endless.err.find("a line of standard input has more than"), std::string::npos);
}

TEST_F(Chat, TemplatesAndSystem) {
  const auto prompt_of = [&](const std::vector<std::string>& more) {
    const auto objects = talk("hi\n/system\n", more);
    EXPECT_EQ(objects.size(), 2u);
    return objects;
  };
  EXPECT_EQ(prompt_of({"--template", "world"})[0].at("prompt_tokens"),
            std::string("User: hi\n\nAssistant:").size());
  EXPECT_EQ(prompt_of({"--template", "raven"})[0].at("prompt_tokens"),
            std::string("Bob: hi\n\nAlice:").size());
  EXPECT_EQ(prompt_of({"--user-name", "ROMEO", "--assistant-name", "J"})[0].at("prompt_tokens"),
            std::string("ROMEO: hi\n\nJ:").size());
  const auto system = prompt_of({"--template", "world", "--system", "Be  brief.\r\n\r\nNow."});
  EXPECT_EQ(system[1].at("message"), "Be  brief.\nNow.");
  const int64_t answered = system[0].at("position").get<int64_t>();
  EXPECT_GT(answered, static_cast<int64_t>(std::string("System: Be  brief.\nNow.\n\n").size()));
}

TEST_F(Chat, Commands) {
  const auto objects = talk(
      "/undo\n/retry\n/bogus\n/save\n/quit now\n/switch x\n/sampler top_p=2\n/sampler x=1\n"
      "/sampler top_p\n/sampler top-k=x\n/load absent\n/fork a b\n/sing\x1b[1m\n",
      {}, 1);
  const std::vector<std::string> words = {"nothing can be undone",
                                          "no question yet",
                                          "there is no command /bogus",
                                          "/save needs FILE",
                                          "/quit takes nothing",
                                          "no conversation",
                                          "top-p is 2",
                                          "no option 'x'",
                                          "expected NAME=VALUE",
                                          "expected a whole number",
                                          "absent",
                                          "cannot name",
                                          "there is no command /sing"};
  ASSERT_EQ(objects.size(), words.size());
  for (size_t i = 0; i < words.size(); ++i) {
    ASSERT_TRUE(objects[i].contains("error")) << objects[i];
    EXPECT_NE(objects[i].at("error").get<std::string>().find(words[i]), std::string::npos)
        << objects[i];
  }
  const auto good = talk(
      "/help\n/info\n/sampler temperature=0 top_p=0.9 penalty-mode=openai\n/system new text\n"
      "/system\n/reset\n/fork a\n/fork\n/switch a\n/quit\nnever read\n");
  ASSERT_EQ(good.size(), 9u);
  for (const Json& object : good) EXPECT_TRUE(object.contains("message")) << object;
  EXPECT_NE(good[0].at("message").get<std::string>().find("/sampler"), std::string::npos);
  EXPECT_EQ(good[2].at("message").get<std::string>().find("temperature=0 top-p=0.9"), 0u);
  EXPECT_EQ(good[4].at("message"), "new text");
  EXPECT_NE(good[7].at("message").get<std::string>().find("* main"), std::string::npos);
}

// What undo, retry and branches answer is what a conversation without them answers.
TEST_F(Chat, UndoRetryAndBranches) {
  const auto plain = talk("one\ntwo\n");
  const auto undone = talk("one\nwrong\n/undo\ntwo\n");
  ASSERT_EQ(undone.size(), 4u);
  EXPECT_EQ(undone[2].at("message"), "forgotten: wrong");
  EXPECT_EQ(undone[3].at("text"), plain[1].at("text"));
  EXPECT_EQ(undone[3].at("position"), plain[1].at("position"));

  const auto retried = talk("one\n/retry\n/retry\n");
  EXPECT_EQ(retried[0].at("text"), plain[0].at("text"));
  EXPECT_NE(retried[1].at("text"), retried[0].at("text"));
  EXPECT_NE(retried[2].at("text"), retried[1].at("text"));
  EXPECT_EQ(retried[2].at("prompt_tokens"), retried[0].at("prompt_tokens"));

  const auto greedy = talk("one\n/fork side\ntwo\n/switch side\ntwo\n", {"--greedy"});
  EXPECT_EQ(greedy[4].at("text"), greedy[2].at("text"));
  EXPECT_EQ(greedy[4].at("position"), greedy[2].at("position"));
}

TEST_F(Chat, SavedConversationsGoOn) {
  const auto whole = talk("one\ntwo\nthree\n");
  const std::string state = path("talk.state");
  const auto first = talk("one\n/save " + path("inner.state") + "\ntwo\n", {"--save-state", state});
  EXPECT_EQ(first[2].at("text"), whole[1].at("text"));
  EXPECT_EQ(talk("three\n", {"--load-state", state})[0].at("position"), whole[2].at("position"));
  // The seed is the saved one, and the random numbers go on.
  const Result result = run({"chat", model_, "--max-tokens", "20", "--deterministic",
                             "--load-state", path("inner.state"), "--json"},
                            "two\nthree\n");
  EXPECT_NE(result.err.find("seed 1;"), std::string::npos);
  const auto lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(Json::parse(lines[0]).at("text"), whole[1].at("text"));
  EXPECT_EQ(Json::parse(lines[1]).at("text"), whole[2].at("text"));
  // The file knows the transcript.
  const SavedState saved = read_state_file(path("inner.state"));
  ASSERT_TRUE(saved.chat);
  ASSERT_EQ(saved.chat->messages.size(), 2u);
  EXPECT_EQ(saved.chat->messages[0].text, "one");
  EXPECT_EQ(saved.chat->messages[1].text, whole[0].at("text").get<std::string>());
  EXPECT_EQ(saved.tokens, whole[0].at("position"));
  expect_refused({"chat", model_, "--load-state", state, "--template", "raven"}, 1,
                 "leave out --template");
  expect_refused({"chat", model_, "--load-state", state, "--system", "x"}, 2, "--system");
}

TEST_F(Chat, StatesThatDoNotFitAreRefused) {
  const std::string state = path("a.state");
  talk("one\n", {"--save-state", state});
  const std::string stranger = make_model("stranger.safetensors", {"--seed", "2"});
  const std::string wide = path("wide.safetensors");
  ASSERT_EQ(run({"init", "--layers", "2", "--width", "64", "-o", wide}).code, 0);
  for (const char* verb : {"chat", "generate"}) {
    expect_refused({verb, stranger, "--load-state", state}, 1, "the state of another model");
    expect_refused({verb, stranger, "--load-state", state}, 1, "the fingerprint does not");
    expect_refused({verb, wide, "--load-state", state}, 1, "its width is 32");
    expect_refused({verb, model_, "--load-state", model_}, 1, "is no saved state");
    expect_refused({verb, model_, "--load-state", path("absent")}, 1, "absent");
    expect_refused({verb, model_, "--save-state", "/dev/full"}, 1, "device");
    expect_refused({verb, model_, "--save-state", path("no/where")}, 1, "there is no folder");
  }
  std::string bytes = read_text_file(state);
  bytes[bytes.size() - 2] ^= 1;
  std::ofstream(path("damaged"), std::ios::binary) << bytes;
  expect_refused({"chat", model_, "--load-state", path("damaged")}, 1, "checksum");
  std::ofstream(path("short"), std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  expect_refused({"chat", model_, "--load-state", path("short")}, 1, "short");
  const auto refused =
      talk("/load " + path("damaged") + "\n/save " + path("no/where") + "\n", {}, 1);
  EXPECT_TRUE(refused[0].contains("error") && refused[1].contains("error"));
  // The same model in other numbers.
  const auto half = run({"chat", model_, "--dtype", "bf16", "--load-state", state}, "two\n");
  EXPECT_EQ(half.code, 0) << half.err;
}

TEST_F(Chat, FullDiskIsAnError) {
  const int out = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (out < 0) GTEST_SKIP() << "no /dev/full here";
  std::ofstream(path("in")) << "one\ntwo\n";
  const int in = open_file("in", O_RDONLY), err = create("stderr");
  EXPECT_EQ(wait_for(start(chat(), in, out, err)), 1);
  for (const int descriptor : {in, out, err}) ::close(descriptor);
  EXPECT_NE(read_text_file(path("stderr")).find("cannot write to standard output"),
            std::string::npos);
}

// Reads until `words` have come; false after ten seconds or at the end.
bool wait_for_words(int descriptor, std::string& seen, const std::string& words) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (seen.find(words) == std::string::npos) {
    pollfd input{descriptor, POLLIN, 0};
    char bytes[4096];
    if (std::chrono::steady_clock::now() > end || ::poll(&input, 1, 1000) < 0) return false;
    if ((input.revents & (POLLIN | POLLHUP)) == 0) continue;
    const ssize_t got = ::read(descriptor, bytes, sizeof(bytes));
    if (got <= 0) return false;
    seen.append(bytes, static_cast<size_t>(got));
  }
  return true;
}

// Pipes in both directions.
class ChatPipes : public Chat {
 protected:
  void begin(const std::vector<std::string>& more) {
    int to[2], from[2];
    ASSERT_EQ(::pipe2(to, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(from, O_CLOEXEC), 0);
    const int err = create("stderr");
    std::vector<std::string> arguments = {"chat", model_, "--seed", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    child_ = start(arguments, to[0], from[1], err);
    for (const int descriptor : {to[0], from[1], err}) ::close(descriptor);
    in_ = to[1];
    out_ = from[0];
  }
  void say(const std::string& text) {
    EXPECT_EQ(::write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string rest() {
    std::string all = seen_;
    char bytes[4096];
    for (ssize_t got; (got = ::read(out_, bytes, sizeof(bytes))) > 0;) {
      all.append(bytes, static_cast<size_t>(got));
    }
    return all;
  }
  void TearDown() override {
    for (const int descriptor : {in_, out_}) ::close(descriptor);
    Cli::TearDown();
  }

  pid_t child_ = -1;
  int in_ = -1, out_ = -1;
  std::string seen_;
  // It says A for ever.
  const std::vector<std::string> endless_ = {
      "--max-tokens", "1000000000", "--greedy", "--threads", "1", "--logit-bias", "65=100000"};
};

TEST_F(ChatPipes, InterruptEndsTheAnswerOnly) {
  std::vector<std::string> more = endless_;
  more.insert(more.end(), {"--save-state", path("a.state")});
  begin(more);
  say("one\n");
  ASSERT_TRUE(wait_for_words(out_, seen_, "AAAA"));
  ::kill(child_, SIGINT);
  ASSERT_TRUE(wait_for_words(out_, seen_, "A\n"));
  seen_.clear();
  say("two\n");
  ASSERT_TRUE(wait_for_words(out_, seen_, "AAAA"));
  ::kill(child_, SIGINT);
  ASSERT_TRUE(wait_for_words(out_, seen_, "A\n"));
  ::close(in_);
  in_ = -1;
  EXPECT_EQ(wait_for(child_), 0);
  // Partial answers stay in the transcript, with their blank line.
  const SavedState saved = read_state_file(path("a.state"));
  ASSERT_TRUE(saved.chat);
  ASSERT_EQ(saved.chat->messages.size(), 4u);
  size_t tokens = 0;
  for (int i = 1; i < 4; i += 2) {
    const std::string& answer = saved.chat->messages[i].text;
    EXPECT_EQ(answer.find_first_not_of('A'), std::string::npos);
    tokens += std::string("User: one\n\nAssistant:\n\n").size() + answer.size();
  }
  EXPECT_EQ(saved.tokens, static_cast<int64_t>(tokens));
}

// A pipe that is full when the interrupt comes: nothing is lost, and nothing fails.
TEST_F(ChatPipes, InterruptWhileNobodyReads) {
  begin(endless_);
  const int size = ::fcntl(out_, F_SETPIPE_SZ, 4096);
  say("one\n");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(45);
  int waiting = 0;
  while (waiting < size && std::chrono::steady_clock::now() < end) {
    ASSERT_EQ(::ioctl(out_, FIONREAD, &waiting), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_EQ(waiting, size);
  ::kill(child_, SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_TRUE(wait_for_words(out_, seen_, "A\n"));
  ::close(in_);
  in_ = -1;
  EXPECT_EQ(wait_for(child_), 0) << read_text_file(path("stderr"));
}

TEST_F(ChatPipes, SignalsEndTheWaiting) {
  for (const int signal : {SIGINT, SIGTERM}) {
    begin({"--json", "--max-tokens", "5", "--save-state", path("b.state")});
    say("one\n");
    seen_.clear();
    ASSERT_TRUE(wait_for_words(out_, seen_, "}\n"));
    ::kill(child_, signal);
    EXPECT_EQ(wait_for(child_), 0);
    EXPECT_EQ(read_state_file(path("b.state")).chat->messages.size(), 2u);
    for (const int descriptor : {in_, out_}) ::close(descriptor);
    in_ = out_ = -1;
  }
}

TEST_F(ChatPipes, TerminationEndsTheAnswerAndSaves) {
  std::vector<std::string> more = endless_;
  more.insert(more.end(), {"--save-state", path("c.state")});
  begin(more);
  say("one\ntwo\n");
  ASSERT_TRUE(wait_for_words(out_, seen_, "AAAA"));
  ::kill(child_, SIGTERM);
  const std::string all = rest();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1);
  EXPECT_EQ(wait_for(child_), 0);
  EXPECT_EQ(read_state_file(path("c.state")).chat->messages.size(), 2u);
}

TEST_F(ChatPipes, ClosedOutputEndsQuietly) {
  begin(endless_);
  say("one\n");
  ASSERT_TRUE(wait_for_words(out_, seen_, "AAAA"));
  ::close(out_);
  out_ = -1;
  EXPECT_EQ(wait_for(child_), 0);
}

// On a terminal of its own.
class ChatTerminal : public Chat {
 protected:
  void begin(const std::vector<std::string>& more) {
    std::vector<std::string> words = {ROOKERY_PROGRAM, "chat",         model_, "--seed", "1",
                                      "--history",     path("history")};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    child_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      ::setenv("TERM", "dumb", 1);
      ::execv(ROOKERY_PROGRAM, pointers.data());
      ::_exit(127);
    }
    ASSERT_TRUE(expect("/help lists the commands"));
    ASSERT_TRUE(expect("> "));
  }
  void press(const std::string& keys) {
    EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // At the prompt: the line editor shows it first and takes the keyboard then; to the terminal's
  // own line editing a key means something else.
  void type(const std::string& keys) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    termios mode{};
    mode.c_lflag = ICANON;
    while ((mode.c_lflag & ICANON) != 0 && std::chrono::steady_clock::now() < end) {
      ASSERT_EQ(::tcgetattr(terminal_, &mode), 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    press(keys);
  }
  bool expect(const std::string& words) {
    const bool found = wait_for_words(terminal_, seen_, words);
    EXPECT_TRUE(found) << words << " in " << seen_;
    const size_t end = found ? seen_.find(words) + words.size() : 0;
    all_ += seen_.substr(0, end);
    seen_.erase(0, end);
    return found;
  }
  int end() {
    std::string all;
    const auto start = std::chrono::steady_clock::now();
    wait_for_words(terminal_, all, "never said");  // until it hangs up
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(9)) ::kill(child_, SIGKILL);
    const int code = wait_for(child_);
    ::close(terminal_);
    return code;
  }

  pid_t child_ = -1;
  int terminal_ = -1;
  std::string seen_, all_;
};

TEST_F(ChatTerminal, LinesInterruptsAndTheEnd) {
  begin({"--max-tokens", "1000000000", "--greedy", "--logit-bias", "65=100000"});
  type("hello\n");
  ASSERT_TRUE(expect("AAAA"));
  press("\x03");
  ASSERT_TRUE(expect("(interrupted)"));
  ASSERT_TRUE(expect("> "));
  type("/undo\n");
  ASSERT_TRUE(expect("forgotten: hello"));
  ASSERT_TRUE(expect("> "));
  type("half a line\x03");
  ASSERT_TRUE(expect("(Ctrl-C again or Ctrl-D ends)"));
  ASSERT_TRUE(expect("> "));
  // The line that was given up is no part of the next one.
  type("/info\n");
  ASSERT_TRUE(expect("0 messages, 0 tokens read"));
  ASSERT_TRUE(expect("> "));
  type("caf\xc3\xa9 \\\nor tea\n");
  ASSERT_TRUE(expect("AAAA"));
  press("\x03");
  ASSERT_TRUE(expect("(interrupted)"));
  ASSERT_TRUE(expect("> "));
  type("/save " + path("a.state") + "\n");
  ASSERT_TRUE(expect("saved"));
  ASSERT_TRUE(expect("> "));
  type("\x04");
  EXPECT_EQ(end(), 0);
  EXPECT_EQ(read_state_file(path("a.state")).chat->messages[0].text, "caf\xc3\xa9 \nor tea");
}

TEST_F(ChatTerminal, CtrlCTwiceEnds) {
  begin({});
  type("\x03");
  ASSERT_TRUE(expect("(Ctrl-C again or Ctrl-D ends)"));
  ASSERT_TRUE(expect("> "));
  type("\x03");
  EXPECT_EQ(end(), 0);
}

// What the model says cannot drive the terminal.
TEST_F(ChatTerminal, EscapesDoNotArrive) {
  begin({"--max-tokens", "5", "--greedy", "--logit-bias", "27=100000"});
  type("hello\n");
  ASSERT_TRUE(expect("(cut at 5 tokens: --max-tokens)"));
  EXPECT_EQ(all_.find("\x1b\x1b"), std::string::npos);
  type("/quit\n");
  EXPECT_EQ(end(), 0);
}

// Generating 2N tokens is generating N, saving, loading, and N more.
TEST_F(Chat, GenerateGoesOnFromASavedState) {
  const std::string state = path("half.state");
  const std::vector<std::vector<std::string>> ways = {
      {"--greedy"},
      {"--seed", "5", "--presence", "0.4", "--frequency", "0.3"},
      {"--seed", "5", "--penalty-mode", "decayed", "--presence", "1"}};
  for (const auto& way : ways) {
    const auto generate = [&](const std::vector<std::string>& more) {
      std::vector<std::string> arguments = {"generate", model_, "--ban", "0", "-q"};
      arguments.insert(arguments.end(), more.begin(), more.end());
      arguments.insert(arguments.end(), way.begin(), way.end());
      const Result result = run(arguments);
      EXPECT_EQ(result.code, 0) << result.err;
      return lines_of(result.out + "\n");
    };
    const auto ids = [&](std::vector<std::string> more) {
      more.push_back("--json");
      std::vector<int64_t> made;
      for (const std::string& line : generate(more)) {
        const Json object = Json::parse(line, nullptr, false);
        if (object.is_object() && object.contains("id")) made.push_back(object.at("id"));
      }
      return made;
    };
    const auto whole = ids({"-p", "Once upon", "-n", "60"});
    auto first = ids({"-p", "Once upon", "-n", "30", "--save-state", state});
    const auto second = ids({"--load-state", state, "-n", "30"});
    EXPECT_EQ(first.size(), 30u);
    first.insert(first.end(), second.begin(), second.end());
    EXPECT_EQ(first, whole) << way[0];
    if (&way != &ways.front()) continue;
    // Only the prompt, and nothing at all between.
    EXPECT_TRUE(ids({"-p", "Once upon", "-n", "0", "--save-state", state}).empty());
    EXPECT_TRUE(ids({"--load-state", state, "-n", "0", "--save-state", state}).empty());
    EXPECT_EQ(read_state_file(state).tokens, 9);
    EXPECT_EQ(ids({"--load-state", state, "-n", "60"}), whole) << way[0];
  }
}

TEST_F(Chat, FlagsBeforeTheSavedSampler) {
  const std::string state = path("a.state");
  const auto text = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", model_, "-n", "40", "-q"});
    const Result result = run(more);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  text({"-p", "a", "--seed", "5", "--save-state", state});
  EXPECT_EQ(text({"--load-state", state}), text({"--load-state", state}));
  EXPECT_NE(text({"--load-state", state}), text({"--load-state", state, "--seed", "6"}));
  // The same seed is the same stream of numbers, so that it goes on.
  EXPECT_EQ(text({"--load-state", state}), text({"--load-state", state, "--seed", "5"}));
  // A prompt is read after what was saved.
  EXPECT_EQ(run({"generate", model_, "-n", "0", "-q", "--load-state", state, "-p", "bcd",
                 "--save-state", state})
                .code,
            0);
  EXPECT_EQ(read_state_file(state).tokens, 1 + 40 + 3);
}

// A chat's file has no logits: something must be said first.
TEST_F(Chat, GenerateAfterAChatNeedsAPrompt) {
  const std::string state = path("a.state");
  talk("one\n", {"--save-state", state});
  expect_refused({"generate", model_, "--load-state", state}, 1, "there is no prompt");
  EXPECT_EQ(run({"generate", model_, "--load-state", state, "-p", "User: x", "-n", "3"}).code, 0);
  // And a chat goes on from a state that was no chat.
  EXPECT_EQ(
      run({"generate", model_, "-p", "A preface.\n\n", "-n", "0", "--save-state", state}).code, 0);
  const auto objects = talk("one\n", {"--load-state", state, "--template", "raven"});
  EXPECT_EQ(objects.at(0).at("prompt_tokens"), std::string("Bob: one\n\nAlice:").size());
  EXPECT_GT(objects.at(0).at("position"), 12 + 16);
}

TEST_F(Chat, InterruptedGenerateSaves) {
  const std::string state = path("a.state");
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC), err = create("stderr");
  const pid_t child = start(
      {"generate", model_, "-n", "1000000000", "--ban", "0", "--seed", "1", "--save-state", state},
      in, ends[1], err);
  for (const int descriptor : {ends[1], in, err}) ::close(descriptor);
  std::vector<char> buffer(4096);
  EXPECT_GT(::read(ends[0], buffer.data(), buffer.size()), 0);
  ::kill(child, SIGINT);
  while (::read(ends[0], buffer.data(), buffer.size()) > 0) {
  }
  ::close(ends[0]);
  EXPECT_EQ(wait_for(child), 0);
  EXPECT_GT(read_state_file(state).tokens, 1);
  EXPECT_EQ(run({"generate", model_, "--load-state", state, "-n", "5"}).code, 0);
}

}  // namespace
}  // namespace rookery
