// `rookery chat`: a conversation on a terminal, or line by line through pipes. What is said and
// kept is in generation/conversation.h; here are flags, commands and signals.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/load.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/sampling.h"
#include "cli/signals.h"
#include "generation/conversation.h"
#include "generation/sampling.h"
#include "generation/saved_state.h"
#include "reporting/numbers.h"
#include "text/utf8_stream.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ChatOptions {
  std::string model;
  std::shared_ptr<MatrixType> dtype;
  std::shared_ptr<int> threads;
  std::shared_ptr<std::string> device;
  std::shared_ptr<std::string> tokenizer;
  std::shared_ptr<SamplingChoices> sampling;
  std::string chat_template, user = "User", assistant = "Assistant", system, think = "off";
  CLI::Option *user_option = nullptr, *assistant_option = nullptr;
  std::vector<std::string> stops;
  std::string load_state, save_state;
  std::optional<std::string> history;
  int64_t most_tokens = 1000, undo_mib = 64;
  bool json = false, quiet = false, deterministic = false;
};

// SIGINT ends an answer or, at the prompt, the program; SIGTERM ends both. The handlers count, and
// who honours an interrupt sets the count back. Waiting for a line ends with them: ppoll is never
// taken up again.
std::atomic<int> interrupts{0}, terminations{0};

extern "C" void on_chat_signal(int signal) {
  const int count = (signal == SIGINT ? interrupts : terminations).fetch_add(1);
  if (count < 2) return;
  // Somebody is impatient: nothing has looked at the first one yet.
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

bool signalled() { return interrupts.load() > 0 || terminations.load() > 0; }

// A model may produce what moves the cursor or changes the terminal.
std::string harmless(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (c == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F
      ++i;
    } else if ((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t') {
      result += text[i];
    }
  }
  return result;
}

std::string_view strip(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  return text;
}

class Chat {
 public:
  Chat(const ChatOptions& options, const Model& model, const Tokenizer& tokenizer,
       Conversation& conversation, LineReader& reader)
      : options_(options),
        model_(model),
        tokenizer_(tokenizer),
        conversation_(conversation),
        reader_(reader) {}

  // Reads lines to the end. Returns the exit code: a failed command is no success of a script.
  int run() {
    std::string text;
    while (!done_ && read_message(text)) {
      const std::string_view line = strip(text);
      if (line.empty()) continue;
      try {
        if (line.starts_with("/") && !line.starts_with("//")) {
          command(line.substr(1));
        } else {
          ask(line.starts_with("//") ? line.substr(1) : line);
        }
      } catch (const Error& error) {
        if (output_failed_) throw;
        failed_ = true;
        tell("error", error.what());
      }
    }
    return failed_ && !reader_.terminal() ? 1 : 0;
  }

 private:
  struct Command {
    std::string_view name, argument, what;
    void (Chat::*act)(std::string_view argument);
  };
  static constexpr int kCommands = 12;
  static const Command kTable[kCommands];

  // A line, or several of which all but the last end in a backslash. False at the end.
  bool read_message(std::string& text) {
    text.clear();
    int quiet_interrupts = 0;
    std::string line;
    while (true) {
      const LineReader::Event event = reader_.read(text.empty() ? "> " : ". ", &signalled, line);
      if (event == LineReader::Event::kEnd) {
        if (reader_.terminal()) fmt::print(stderr, "\n");
        return !text.empty();
      }
      if (event == LineReader::Event::kInterrupted) {
        if (terminations > 0 || !reader_.terminal() || ++quiet_interrupts > 1) {
          if (reader_.terminal()) fmt::print(stderr, "\n");
          return false;
        }
        interrupts = 0;
        text.clear();
        fmt::print(stderr, "\n(Ctrl-C again or Ctrl-D ends)\n");
        continue;
      }
      quiet_interrupts = 0;
      while (line.ends_with('\r')) line.pop_back();
      text += line;
      if (!text.ends_with('\\')) return true;
      text.back() = '\n';
    }
  }

  void command(std::string_view text) {
    const size_t end = std::min(text.find_first_of(" \t\n"), text.size());
    const std::string_view name = text.substr(0, end), argument = strip(text.substr(end));
    for (const Command& known : kTable) {
      if (known.name != name) continue;
      check(!known.argument.empty() || argument.empty()) ||
          fail("/{} takes nothing after it", name);
      check(known.argument.empty() || known.argument.starts_with('[') || !argument.empty()) ||
          fail("/{} needs {}", name, known.argument);
      (this->*known.act)(argument);
      return;
    }
    fail("there is no command /{}: /help lists them; a message may begin with // for a /",
         printable(name));
  }

  // Something about the conversation: `kind` "message" or "error".
  void tell(const char* kind, const std::string& text) {
    if (options_.json) {
      write(Json({{kind, printable(text)}}).dump() + "\n");
    } else {
      fmt::print(stderr, "{}\n", harmless(printable(text)));
    }
  }

  void write(const std::string& text) {
    try {
      if (!write_output(text)) done_ = true;
    } catch (const Error&) {
      output_failed_ = true;
      throw;
    }
  }

  void ask(std::string_view question) {
    answer([&](const auto& show, const auto& stop) {
      return conversation_.ask(question, show, stop);
    });
  }
  void retry(std::string_view) {
    answer([&](const auto& show, const auto& stop) { return conversation_.retry(show, stop); });
    if (conversation_.sampling().temperature == 0 && reader_.terminal()) {
      tell("message", "temperature is 0: the answer is always the same");
    }
  }

  template <class F>
  void answer(const F& make) {
    const auto start = std::chrono::steady_clock::now();
    bool line_open = false;
    const auto show = [&](std::string_view text) {
      if (options_.json) return;
      write(reader_.terminal() ? harmless(text) : std::string(text));
      line_open = true;
    };
    const auto stop = [&] { return done_ || signalled(); };
    Answer answer;
    try {
      answer = make(show, stop);
    } catch (...) {
      if (line_open && !output_failed_) write("\n");
      throw;
    }
    interrupts = 0;
    if (terminations > 0) done_ = true;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (options_.json) {
      Json line = {{"text", answer.text}};
      if (!answer.thought.empty()) line["thought"] = answer.thought;
      line["reason"] = name_of(answer.reason);
      line["kept"] = answer.kept;
      line["tokens"] = answer.tokens;
      line["prompt_tokens"] = answer.prompt_tokens;
      line["position"] = conversation_.tokens();
      line["seconds"] = seconds.count();
      write(line.dump() + "\n");
      return;
    }
    write("\n");
    if (!reader_.terminal()) return;
    if (!answer.kept) tell("message", "(interrupted before the answer: the question is forgotten)");
    if (answer.kept && answer.reason == EndReason::kInterrupted) tell("message", "(interrupted)");
    if (answer.reason == EndReason::kLength) {
      tell("message", fmt::format("(cut at {} tokens: --max-tokens)", answer.tokens));
    }
  }

  void help(std::string_view) {
    std::string text;
    for (const Command& known : kTable) {
      text +=
          fmt::format("{:<24} {}\n", fmt::format("/{} {}", known.name, known.argument), known.what);
    }
    tell("message", text +
                        "A backslash at the end of a line continues the message on the next one; "
                        "// begins a message with /.\nCtrl-C stops an answer; Ctrl-D, or Ctrl-C "
                        "twice, ends.");
  }
  void save(std::string_view file) {
    write_state_file(file, conversation_.saved());
    tell("message", fmt::format("saved {} tokens to {}", conversation_.tokens(), file));
  }
  void load(std::string_view file) {
    conversation_.load(load_state(file, model_, &tokenizer_), !options_.sampling->seed);
    tell("message", fmt::format("loaded {} tokens, {} messages", conversation_.tokens(),
                                conversation_.messages().size()));
  }
  void fork(std::string_view name) {
    if (!name.empty()) {
      conversation_.fork(name);
      tell("message",
           fmt::format("a copy is kept as {}; you are still in {}", name, conversation_.branch()));
      return;
    }
    std::string text;
    for (const auto& branch : conversation_.branches()) {
      text += fmt::format("{}{} {}: {} messages, {} tokens", text.empty() ? "" : "\n",
                          branch.current ? "*" : " ", branch.name, branch.messages, branch.tokens);
    }
    tell("message", text);
  }
  void switch_to(std::string_view name) {
    conversation_.switch_to(name);
    tell("message", fmt::format("in {}: {} messages, {} tokens", conversation_.branch(),
                                conversation_.messages().size(), conversation_.tokens()));
  }
  void undo(std::string_view) {
    const std::string question = conversation_.undo();
    tell("message", fmt::format("forgotten: {}", question));
  }
  void reset(std::string_view) {
    const std::string system = conversation_.system();
    begin(system);
  }
  void system(std::string_view text) {
    if (!text.empty()) return begin(text);
    const std::string system = conversation_.system();
    tell("message", system.empty() ? "there is no system text" : system);
  }
  void begin(std::string_view system) {
    if (conversation_.begin(system, &signalled)) {
      tell("message", "a new conversation begins");
    } else {
      interrupts = 0;
      tell("message", "interrupted: the conversation goes on as it was");
    }
  }
  void sampler(std::string_view changes) {
    SamplerOptions sampling = conversation_.sampling();
    for (std::string_view rest = changes; !rest.empty();) {
      const size_t end = std::min(rest.find_first_of(" \t\n"), rest.size());
      const std::string_view change = rest.substr(0, end);
      rest = strip(rest.substr(end));
      const size_t equals = change.find('=');
      check(equals != std::string_view::npos) ||
          fail("'{}' changes nothing: expected NAME=VALUE, such as top-p=0.5", printable(change));
      set_option(sampling, change.substr(0, equals), change.substr(equals + 1));
    }
    conversation_.set_sampling(sampling);
    tell("message", to_string(conversation_.sampling()));
  }
  void info(std::string_view) {
    const ChatTemplate& chat = conversation_.chat();
    tell("message",
         fmt::format("template {} ({}, {}), branch {}: {} messages, {} tokens read\n"
                     "state {}, {} of at most {} steps can be undone\n{}",
                     chat.name, chat.user, chat.assistant, conversation_.branch(),
                     conversation_.messages().size(), conversation_.tokens(),
                     format_bytes(static_cast<double>(conversation_.state().slot_bytes())),
                     conversation_.undo_steps(), conversation_.most_undo_steps(),
                     to_string(conversation_.sampling())));
  }
  void quit(std::string_view) { done_ = true; }

  const ChatOptions& options_;
  const Model& model_;
  const Tokenizer& tokenizer_;
  Conversation& conversation_;
  LineReader& reader_;
  bool done_ = false, failed_ = false, output_failed_ = false;
};

const Chat::Command Chat::kTable[kCommands] = {
    {"help", "", "this list", &Chat::help},
    {"retry", "", "answer the last question again, with other random numbers", &Chat::retry},
    {"undo", "", "forget the last question and its answer", &Chat::undo},
    {"reset", "", "begin anew, with the same system text", &Chat::reset},
    {"system", "[TEXT]", "begin anew with this system text; alone: show it", &Chat::system},
    {"fork", "[NAME]", "keep a copy of the conversation under a name; alone: list them",
     &Chat::fork},
    {"switch", "NAME", "go on with that copy; this conversation is kept, too", &Chat::switch_to},
    {"save", "FILE", "write the conversation to a file", &Chat::save},
    {"load", "FILE", "go on with a saved conversation; this one is forgotten", &Chat::load},
    {"sampler", "[NAME=VALUE ...]", "change how tokens are chosen; alone: show it", &Chat::sampler},
    {"info", "", "what is kept, and how much", &Chat::info},
    {"quit", "", "end", &Chat::quit},
};

ChatTemplate template_of(const ChatOptions& options, const Model& model,
                         const Tokenizer& tokenizer) {
  const bool named = options.user_option->count() + options.assistant_option->count() > 0;
  std::string name = options.chat_template;
  if (name.empty()) {
    name = named ? "plain" : default_chat_template(tokenizer.name(), model.config().vocabulary);
  }
  if (named && name != "plain") {
    wrong_usage("--user-name and --assistant-name belong to --template plain, not to {}", name);
  }
  try {
    return chat_template(name, options.user, options.assistant);
  } catch (const Error& error) {
    wrong_usage("{}", error.what());
  }
}

int chat(const ChatOptions& options) {
  check_sampling(*options.sampling);
  if (!options.save_state.empty()) check_writable(options.save_state);
  const LoadedModel loaded = load_on(*options.device, options.model, *options.dtype);
  const Model& model = *loaded.model;
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_for(loaded, *options.tokenizer);
  const ChatTemplate chat = template_of(options, model, *tokenizer);
  ConversationOptions conversation_options{.most_tokens = options.most_tokens,
                                           .stops = options.stops,
                                           .undo_bytes = options.undo_mib << 20,
                                           .deterministic = options.deterministic};
  try {
    conversation_options.think = think_mode(options.think, model.config().generation);
  } catch (const Error& error) {
    wrong_usage("--think: {}", error.what());
  }

  std::optional<ThreadPool> pool;
  {
    // So that a signal interrupts the thread that waits.
    const SignalsBlocked blocked;
    pool.emplace(resolve_threads(*options.threads));
  }
  handle_signals(on_chat_signal);
  Conversation conversation(
      model, *pool, *tokenizer, chat,
      sampler_options_of(*options.sampling, chat_sampling(model.config()), model, tokenizer.get()),
      conversation_options);
  if (!options.load_state.empty()) {
    const SavedState saved = load_state(options.load_state, model, tokenizer.get());
    conversation.load(saved, !options.sampling->seed);
    check((options.chat_template.empty() && options.user_option->count() == 0 &&
           options.assistant_option->count() == 0) ||
          conversation.chat() == chat) ||
        fail(
            "the chat in '{}' goes by the template {} ({}, {}): leave out --template, --user-name "
            "and --assistant-name",
            options.load_state, conversation.chat().name, conversation.chat().user,
            conversation.chat().assistant);
  } else if (!conversation.begin(options.system, &signalled)) {
    fail("interrupted while the system text was read");
  }

  std::filesystem::path history = options.history.value_or("");
  if (!options.history) history = default_history();
  if (history == "off") history.clear();
  LineReader reader(history);
  if (!options.quiet) {
    fmt::print(stderr, "RWKV-{}, template {} ({}, {}), seed {}; /help lists the commands\n",
               model.config().generation, conversation.chat().name, conversation.chat().user,
               conversation.chat().assistant, conversation.sampling().seed);
  }
  const int code = Chat(options, model, *tokenizer, conversation, reader).run();
  if (!options.save_state.empty()) write_state_file(options.save_state, conversation.saved());
  return code;
}

}  // namespace

std::function<int()> add_chat(CLI::App& app) {
  CLI::App* verb = add_verb(
      app, "chat", "Talk with a model",
      "  rookery chat raven.pth --tokenizer 20B_tokenizer.json\n"
      "  echo 'Hello!' | rookery chat runs/book --json\n"
      "  rookery chat runs/book --user-name ROMEO --assistant-name JULIET --save-state talk.state");
  auto options = std::make_shared<ChatOptions>();
  verb->add_option("MODEL", options->model, "A model file, or the folder of a training run")
      ->required()
      ->type_name("PATH");
  verb->add_option("--template", options->chat_template,
                   "world, raven or plain; default: by the model's vocabulary")
      ->check(CLI::IsMember(
                  std::vector<std::string>(std::begin(kChatTemplates), std::end(kChatTemplates)))
                  .description(""))
      ->type_name("NAME");
  options->user_option =
      verb->add_option("--user-name", options->user, "Who asks, in the template plain")
          ->capture_default_str();
  options->assistant_option =
      verb->add_option("--assistant-name", options->assistant, "Who answers")
          ->capture_default_str();
  CLI::Option* system =
      verb->add_option("--system", options->system, "What the conversation begins with");
  verb->add_option("--think", options->think,
                   "RWKV-7: off, on, think, bit, lot or fast (docs/chat.md)")
      ->type_name("MODE")
      ->capture_default_str();
  verb->add_option("--max-tokens", options->most_tokens, "Of an answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40).description(""))
      ->capture_default_str();
  verb->add_option_function<std::vector<std::string>>(
          "--stop",
          [options](const std::vector<std::string>& stops) {
            for (const std::string& stop : stops) options->stops.push_back(unescape(stop));
          },
          "End answers before this text and not before a blank line; \\n, \\t and \\\\ are "
          "understood; repeatable")
      ->check(parsed_by(unescape))
      ->type_name("TEXT")
      ->allow_extra_args(false);
  verb->add_flag("--json", options->json, "One JSON object for each line that was read");
  verb->add_flag("-q,--quiet", options->quiet, "No line with template and seed at the beginning");
  const char* states = "Saved states";
  verb->add_option("--load-state", options->load_state, "Go on with a saved conversation or state")
      ->type_name("FILE")
      ->group(states)
      ->excludes(system);
  verb->add_option("--save-state", options->save_state, "At the end, write the conversation here")
      ->type_name("FILE")
      ->group(states);
  verb->add_option("--undo-memory", options->undo_mib, "MiB of states kept for /undo")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20).description(""))
      ->capture_default_str()
      ->group(states);
  verb->add_option("--history", options->history,
                   "Lines typed before; off: none; default ~/.local/state/rookery/chat_history")
      ->type_name("FILE");
  options->tokenizer = add_tokenizer(*verb);
  options->dtype = add_dtype(*verb);
  options->device = add_device(*verb);
  options->threads = add_threads(*verb);
  verb->add_flag("--deterministic", options->deterministic,
                 "Numbers that do not depend on how the text is cut; slower");
  options->sampling = add_sampling(*verb, kChatSampling);
  verb->footer(
      "The sampler's defaults for RWKV-7 are top-p 0.5, top-k 100 and no penalties. Penalties\n"
      "concern one answer. Without a terminal each line is a question, answers go to standard\n"
      "output and all else to standard error; a failed command makes the exit code 1.");
  return [options] { return chat(*options); };
}

}  // namespace rookery::cli
