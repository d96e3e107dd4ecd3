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

Speaker speaker_of(const std::string& role, size_t turn) {
  if (role == "system") return Speaker::kSystem;
  if (role == "user" || role == "human") return Speaker::kUser;
  if (role == "assistant" || role == "gpt") return Speaker::kAssistant;
  fail("turn {} is by '{}': expected system, user (human) or assistant (gpt)", turn,
       role.substr(0, 40));
}

const std::string& text_of(const Json& object, const char* key, size_t turn) {
  check(object.is_object()) || fail("turn {} is {}, expected an object", turn, object.type_name());
  const auto found = object.find(key);
  check(found != object.end()) || fail("turn {} has no \"{}\"", turn, key);
  check(found->is_string()) ||
      fail("\"{}\" of turn {} is {}, expected a string", key, turn, found->type_name());
  return found->get_ref<const std::string&>();
}

std::vector<Turn> turns_of(const Json& list, const char* who, const char* what) {
  check(list.is_array()) ||
      fail("the conversation is {}, expected a list of turns", list.type_name());
  std::vector<Turn> turns;
  bool answered = false;
  for (size_t i = 0; i < list.size(); ++i) {
    const Speaker speaker = speaker_of(text_of(list[i], who, i + 1), i + 1);
    std::string text = clean_message(text_of(list[i], what, i + 1));
    if (text.empty() && speaker == Speaker::kSystem) continue;
    check(!text.empty()) || fail("\"{}\" of turn {} is empty", what, i + 1);
    answered = answered || speaker == Speaker::kAssistant;
    turns.push_back({speaker, std::move(text)});
  }
  check(answered) ||
      fail("the conversation has no answer by the assistant: there is nothing to learn");
  return turns;
}

LineDocument render(const std::vector<Turn>& turns, const ChatTemplate& chat) {
  LineDocument document;
  const auto add = [&](std::string_view text, bool learned) {
    for (const std::string_view part : parts_of(chat, text)) {
      document.pieces.push_back({std::string(part), learned});
    }
  };
  std::string given;  // what the model reads before it speaks
  for (size_t i = 0; i < turns.size(); ++i) {
    const auto& [speaker, text] = turns[i];
    const std::string_view end = i + 1 < turns.size() ? kTurnEnd : "";
    if (speaker == Speaker::kAssistant) {
      add(fmt::format("{}{}:", given, chat.assistant), false);
      add(fmt::format(" {}{}", text, end), true);
      given.clear();
    } else if (speaker == Speaker::kUser) {
      given += fmt::format("{}: {}{}", chat.user, text, end);
    } else {
      given += fmt::format("{}{}{}", chat.system_label, text, end);
    }
  }
  document.end_learned = given.empty();
  add(given, false);
  return document;
}

}  // namespace

LineDocument parse_json_line(std::string_view line, const ChatTemplate& chat) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::exception& error) {
    // The library's words, without its number before them.
    const std::string_view words = error.what();
    fail("this is not JSON: {}", words.substr(std::min(words.find("] ") + 2, words.size()), 200));
  }
  check(json.is_object()) || fail("this is {}, expected an object", json.type_name());
  const auto text = json.find("text"), messages = json.find("messages"),
             conversations = json.find("conversations");
  const int forms = (text != json.end()) + (messages != json.end()) + (conversations != json.end());
  check(forms == 1) ||
      fail("expected one of \"text\", \"messages\" and \"conversations\", found {} of them", forms);
  if (messages != json.end()) return render(turns_of(*messages, "role", "content"), chat);
  if (conversations != json.end()) return render(turns_of(*conversations, "from", "value"), chat);
  check(text->is_string()) || fail("\"text\" is {}, expected a string", text->type_name());
  LineDocument document;
  if (!text->get_ref<const std::string&>().empty()) {
    document.pieces.push_back({std::move(text->get_ref<std::string&>()), true});
  }
  return document;
}

}  // namespace rookery
