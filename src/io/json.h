// JSON from files of others: headers, configurations, indexes, tokenizers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rookery {

// What has no reason to be nested deeply is not deeper than this.
inline constexpr int kDeepestJson = 16;

// Throws Error, beginning with `what` ("the header of 'x'"), for text that is no JSON, is nested
// deeper than `deepest` containers in the outermost one, or has a key twice in one object.
nlohmann::json parse_json_text(std::string_view text, int deepest, const std::string& what);

// The object in a small file: a configuration or an index. Throws Error as above, and if it is no
// object or longer than 16 MiB.
nlohmann::json read_json_file(const std::filesystem::path& path);

// A whole number from 0, or -1 for anything else.
int64_t whole_number(const nlohmann::json& value);

}  // namespace rookery
