#include "data/json_line.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace rookery {
namespace {

using Json = nlohmann::json;

enum class Speaker { kSystem, kUser, kAssistant };

struct Turn {
  Speaker speaker;
  std::string text;
};

std::string clean(std::string_view text) {
  std::string cleaned;
  cleaned.reserve(text.size());
  for (const char character : text) {
    const char c = character == '\r' ? '\n' : character;
    if (c == '\n' && !cleaned.empty() && cleaned.back() == '\n') continue;
    const bool control = (c >= 0 && c < ' ') || c == '\x7f';
    if (control && c != '\n' && c != '\t') continue;
    cleaned += c;
  }
  constexpr std::string_view kSpace = " \t\n";
  const size_t first = cleaned.find_first_not_of(kSpace);
  if (first == std::string::npos) return "";
  return cleaned.substr(first, cleaned.find_last_not_of(kSpace) - first + 1);
}

Speaker speaker_of(const std::string& role, size_t turn) {
  if (role == "system") return Speaker::kSystem;
  if (role == "user" || role == "human") return Speaker::kUser;
  if (role == "assistant" || role == "gpt") return Speaker::kAssistant;
  fail("turn {} is by '{}': expected system, user (human) or assistant (gpt)", turn,
       role.substr(0, 40));
}

std::string_view label_of(Speaker speaker, ConversationForm form) {
  const bool world = form == ConversationForm::kWorld;
  switch (speaker) {
    case Speaker::kSystem:
      return world ? "System:" : "";
    case Speaker::kUser:
      return world ? "User:" : "Bob:";
    case Speaker::kAssistant:
      return world ? "Assistant:" : "Alice:";
  }
  return "";
}

const std::string& text_of(const Json& object, const char* key, size_t turn) {
  check(object.is_object(), "turn {} is {}, expected an object", turn, object.type_name());
  const auto found = object.find(key);
  check(found != object.end(), "turn {} has no \"{}\"", turn, key);
  check(found->is_string(), "\"{}\" of turn {} is {}, expected a string", key, turn,
        found->type_name());
  return found->get_ref<const std::string&>();
}

std::vector<Turn> turns_of(const Json& list, const char* who, const char* what) {
  check(list.is_array(), "the conversation is {}, expected a list of turns", list.type_name());
  std::vector<Turn> turns;
  bool answered = false;
  for (size_t i = 0; i < list.size(); ++i) {
    const Speaker speaker = speaker_of(text_of(list[i], who, i + 1), i + 1);
    std::string text = clean(text_of(list[i], what, i + 1));
    if (text.empty() && speaker == Speaker::kSystem) continue;
    check(!text.empty(), "\"{}\" of turn {} is empty", what, i + 1);
    answered = answered || speaker == Speaker::kAssistant;
    turns.push_back({speaker, std::move(text)});
  }
  check(answered, "the conversation has no answer by the assistant: there is nothing to learn");
  return turns;
}

constexpr std::string_view kBlankLine = "\n\n";

// One piece, or with Raven's blank lines taken apart.
void add(std::string_view text, bool learned, ConversationForm form, LineDocument& document) {
  const auto put = [&](std::string_view part) {
    if (!part.empty()) document.pieces.push_back({std::string(part), learned});
  };
  while (form == ConversationForm::kRaven) {
    const size_t blank = text.find(kBlankLine);
    if (blank == std::string_view::npos) break;
    put(text.substr(0, blank));
    put("\n");
    put("\n");
    text.remove_prefix(blank + kBlankLine.size());
  }
  put(text);
}

LineDocument render(const std::vector<Turn>& turns, ConversationForm form) {
  LineDocument document;
  std::string given;  // what the model reads before it speaks
  for (size_t i = 0; i < turns.size(); ++i) {
    const std::string_view end = i + 1 < turns.size() ? kBlankLine : "";
    const std::string_view label = label_of(turns[i].speaker, form);
    given += label;
    const std::string text = fmt::format("{}{}{}", label.empty() ? "" : " ", turns[i].text, end);
    if (turns[i].speaker == Speaker::kAssistant) {
      add(given, false, form, document);
      add(text, true, form, document);
      given.clear();
    } else {
      given += text;
    }
  }
  document.end_learned = given.empty();
  add(given, false, form, document);
  return document;
}

}  // namespace

ConversationForm parse_conversation_form(std::string_view name) {
  if (name == "world") return ConversationForm::kWorld;
  if (name == "raven") return ConversationForm::kRaven;
  fail("'{}' is no chat template: expected world or raven", name);
}

LineDocument parse_json_line(std::string_view line, ConversationForm form) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::exception& error) {
    // The library's words, without its number before them.
    const std::string_view words = error.what();
    fail("this is not JSON: {}", words.substr(std::min(words.find("] ") + 2, words.size()), 200));
  }
  check(json.is_object(), "this is {}, expected an object", json.type_name());
  const auto text = json.find("text"), messages = json.find("messages"),
             conversations = json.find("conversations");
  const int forms = (text != json.end()) + (messages != json.end()) + (conversations != json.end());
  check(forms == 1,
        "expected one of \"text\", \"messages\" and \"conversations\", found {} of them", forms);
  if (messages != json.end()) return render(turns_of(*messages, "role", "content"), form);
  if (conversations != json.end()) return render(turns_of(*conversations, "from", "value"), form);
  check(text->is_string(), "\"text\" is {}, expected a string", text->type_name());
  LineDocument document;
  if (!text->get_ref<const std::string&>().empty()) {
    document.pieces.push_back({std::move(text->get_ref<std::string&>()), true});
  }
  return document;
}

}  // namespace rookery
