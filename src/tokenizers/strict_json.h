// JSON from outside. The library that reads it would take the last of two equal keys without a
// word.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace rookery {

// Throws Error for what is no JSON, has an object with the same key twice, or is nested more than
// 16 deep. `source` names it in messages.
nlohmann::json parse_strict_json(std::string_view text, std::string_view source);

}  // namespace rookery
