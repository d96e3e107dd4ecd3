// One object of a .jsonl file that may come from anywhere.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rookery {

// The object on `line`, with these keys only: others are read over and not kept. `where` stands in
// front of messages. Throws Error for what is no JSON, no object, or nested more than three deep.
nlohmann::json parse_json_line(std::string_view line, std::initializer_list<std::string_view> keys,
                               const std::string& where);

// The text under `key`. Throws Error if it is not there or no text.
std::string text_field(const nlohmann::json& object, const char* key, const std::string& where);

}  // namespace rookery
