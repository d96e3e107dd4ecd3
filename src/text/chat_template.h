// How a conversation becomes the text that a model was trained to go on with. A template is data:
//   world   "User: QUESTION\n\nAssistant: ANSWER\n\n", begun by "System: TEXT\n\n" (World and G1)
//   raven   "Bob: QUESTION\n\nAlice: ANSWER\n\n", begun by "TEXT\n\n" (Raven)
//   plain   the same with two names of one's own
// A blank line ends a turn, so that no message may hold one: clean_message().
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/tokenizer.h"

namespace rookery {

struct ChatTemplate {
  std::string name;             // "world", "raven" or "plain"
  std::string user, assistant;  // whose turn it is: "User", "Assistant"
  std::string system_label;     // before a system text: "System: ", or nothing
  // The blank line is encoded as two line breaks, each by itself: what Raven saw in training (187
  // 187 of GPT-NeoX's ids), while the tokenizer makes one token of both (535).
  bool lines_apart = false;

  bool operator==(const ChatTemplate&) const = default;
};

inline constexpr std::string_view kChatTemplates[] = {"world", "raven", "plain"};

// The template of this name; the names of the speakers serve `plain` only. Throws Error for an
// unknown name, and for speakers that are empty, equal, or hold a colon, line break, control byte
// or what is not UTF-8.
ChatTemplate chat_template(std::string_view name, std::string_view user = "User",
                           std::string_view assistant = "Assistant");

// What a model of this tokenizer was most likely trained with: raven for GPT-NeoX's 50277 ids,
// world for the World vocabulary of 65536, else plain.
std::string_view default_chat_template(std::string_view tokenizer, int64_t vocabulary);

// The template of this name. Without a name it is `plain` if a speaker is named, and otherwise the
// default for this tokenizer and vocabulary. Throws Error as chat_template() does, and for speakers
// that are named for another template than `plain`.
ChatTemplate choose_chat_template(std::string_view name, const std::optional<std::string>& user,
                                  const std::optional<std::string>& assistant,
                                  std::string_view tokenizer, int64_t vocabulary);

// Whether and how long a model of generation 7 thinks before it answers.
struct ThinkMode {
  std::string_view name;
  std::string_view request;  // after the question: " (think a bit)"
  // After "Assistant:". The last '>' is left to the model: ">\n" is another token than ">".
  std::string_view begun;
};
inline constexpr ThinkMode kThinkModes[] = {
    {"off", "", ""},
    {"on", "", " <think"},
    {"think", " (think)", " <think"},
    {"bit", " (think a bit)", " <think"},
    {"lot", " (think a lot)", " <think"},
    {"fast", "", " <think>\n</think"},
};
// Throws Error for an unknown name, and for any but "off" when the generation was not trained to
// think.
const ThinkMode& think_mode(std::string_view name, std::string_view generation);

// What a user typed, as the models expect it: valid UTF-8, no control characters but tab and line
// break, line breaks as \n, no blank line, no space at either end. May be empty then.
std::string clean_message(std::string_view text);

// The parts of the text. The messages are clean and not empty.
std::string system_block(const ChatTemplate& chat, std::string_view message);
std::string user_block(const ChatTemplate& chat, std::string_view message,
                       const ThinkMode& think = kThinkModes[0]);
inline constexpr std::string_view kTurnEnd = "\n\n";

// Where an answer ends: before a blank line, or where the model begins to speak for the user.
// Byte strings, found across tokens (StopMatcher); token 0 ends an answer besides.
std::vector<std::string> chat_stops(const ChatTemplate& chat);

// What of a text is encoded by itself, in order: all at once, or with `lines_apart` each line break
// of a blank line. The views point into `text`.
std::vector<std::string_view> parts_of(const ChatTemplate& chat, std::string_view text);

// Appends the ids of the parts of a text.
void encode_chat(const ChatTemplate& chat, const Tokenizer& tokenizer, std::string_view text,
                 std::vector<int32_t>& ids);

// An answer without and with its thoughts: "<think>...</think>" at its beginning. Without the end
// mark all is thought. White space at the ends goes.
struct ChatAnswer {
  std::string thought, text;
};
ChatAnswer split_answer(std::string_view answer);

}  // namespace rookery
