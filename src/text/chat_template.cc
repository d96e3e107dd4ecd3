#include "text/chat_template.h"

#include <algorithm>

#include "core/error.h"
#include "text/utf8_stream.h"

namespace rookery {
namespace {

constexpr std::string_view kSpace = " \t\n\r";
constexpr int64_t kNeoxVocabulary = 50277, kWorldVocabulary = 65536;

std::string_view strip(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string valid(std::string_view text) {
  Utf8Stream utf8;
  std::string result = utf8.push(text);
  return result + utf8.finish();
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
}

void check_speaker(std::string_view name) {
  check(!name.empty() && name.size() <= 64 && strip(name) == name) ||
      fail("'{}' cannot name a speaker: expected 1 to 64 bytes without space at the ends",
           valid(name));
  check(name.find(':') == std::string_view::npos && valid(name) == name &&
        std::none_of(name.begin(), name.end(), is_control)) ||
      fail("'{}' cannot name a speaker: expected UTF-8 without colons and control characters",
           valid(name));
}

}  // namespace

ChatTemplate chat_template(std::string_view name, std::string_view user,
                           std::string_view assistant) {
  if (name == "world") return {"world", "User", "Assistant", "System: ", false};
  if (name == "raven") return {"raven", "Bob", "Alice", "", true};
  check(name == "plain") ||
      fail("there is no chat template '{}': expected world, raven or plain", valid(name));
  check_speaker(user);
  check_speaker(assistant);
  check(user != assistant) || fail("both speakers are called '{}': expected two names", user);
  return {"plain", std::string(user), std::string(assistant), "", false};
}

std::string_view default_chat_template(std::string_view tokenizer, int64_t vocabulary) {
  if (vocabulary == kNeoxVocabulary) return "raven";
  return tokenizer == "world" || vocabulary == kWorldVocabulary ? "world" : "plain";
}

const ThinkMode& think_mode(std::string_view name, std::string_view generation) {
  const auto* mode = std::find_if(std::begin(kThinkModes), std::end(kThinkModes),
                                  [&](const ThinkMode& m) { return m.name == name; });
  if (mode == std::end(kThinkModes)) {
    std::string known;
    for (const ThinkMode& m : kThinkModes) {
      known += (known.empty() ? "" : ", ") + std::string(m.name);
    }
    fail("there is no way of thinking '{}': expected one of {}", valid(name), known);
  }
  check(mode->begun.empty() || generation == "7") ||
      fail("RWKV-{} was not trained to think aloud, only RWKV-7 was: expected off, got '{}'",
           generation, name);
  return *mode;
}

std::string clean_message(std::string_view text) {
  std::string result;
  for (const char c : valid(text)) {
    // \r\n is one line break, and so is an \r alone.
    const char next = c == '\r' ? '\n' : c;
    if (next == '\n' && !result.empty() && result.back() == '\n') continue;
    if (is_control(next) && next != '\n' && next != '\t') continue;
    result += next;
  }
  return std::string(strip(result));
}

std::string system_block(const ChatTemplate& chat, std::string_view message) {
  return fmt::format("{}{}{}", chat.system_label, message, kTurnEnd);
}

std::string user_block(const ChatTemplate& chat, std::string_view message, const ThinkMode& think) {
  return fmt::format("{}: {}{}{}{}:{}", chat.user, message, think.request, kTurnEnd, chat.assistant,
                     think.begun);
}

std::vector<std::string> chat_stops(const ChatTemplate& chat) {
  return {std::string(kTurnEnd), fmt::format("\n{}:", chat.user)};
}

std::vector<std::string_view> parts_of(const ChatTemplate& chat, std::string_view text) {
  std::vector<std::string_view> parts;
  const auto add = [&](std::string_view part) {
    if (!part.empty()) parts.push_back(part);
  };
  while (chat.lines_apart) {
    const size_t blank = text.find(kTurnEnd);
    if (blank == std::string_view::npos) break;
    add(text.substr(0, blank));
    add(text.substr(blank, 1));
    add(text.substr(blank + 1, 1));
    text.remove_prefix(blank + kTurnEnd.size());
  }
  add(text);
  return parts;
}

void encode_chat(const ChatTemplate& chat, const Tokenizer& tokenizer, std::string_view text,
                 std::vector<int32_t>& ids) {
  for (const std::string_view part : parts_of(chat, text)) tokenizer.encode_to(part, ids);
}

ChatAnswer split_answer(std::string_view answer) {
  constexpr std::string_view kBegin = "<think", kEnd = "</think";
  answer = strip(answer);
  if (!answer.starts_with(kBegin)) return {"", std::string(answer)};
  answer.remove_prefix(kBegin.size());
  if (answer.starts_with('>')) answer.remove_prefix(1);
  const size_t end = answer.find(kEnd);
  const std::string_view thought = strip(answer.substr(0, end));
  if (end == std::string_view::npos) return {std::string(thought), ""};
  answer.remove_prefix(end + kEnd.size());
  if (answer.starts_with('>')) answer.remove_prefix(1);
  return {std::string(thought), std::string(strip(answer))};
}

}  // namespace rookery
