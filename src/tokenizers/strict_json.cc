#include "tokenizers/strict_json.h"

#include <unordered_set>

#include "core/error.h"

namespace rookery {

nlohmann::json parse_strict_json(std::string_view text, std::string_view source) {
  using nlohmann::json;
  constexpr int kDeepest = 16;
  std::unordered_set<std::string> keys[kDeepest + 2];  // by depth: those of the open object
  const auto look = [&](int depth, json::parse_event_t event, json& parsed) {
    check(depth <= kDeepest, "'{}' is nested more than {} deep: expected a tokenizer", source,
          kDeepest);
    if (event == json::parse_event_t::object_start) keys[depth + 1].clear();
    if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      check(keys[depth].insert(key).second,
            "'{}' has the key {} twice in one object: expected each once", source,
            json(key).dump());
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), look);
  } catch (const json::exception& problem) {
    fail("'{}' is not valid JSON ({}): the file is damaged, copy or download it again", source,
         problem.what());
  }
}

}  // namespace rookery
