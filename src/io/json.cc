#include "io/json.h"

#include <set>
#include <vector>

#include "io/file.h"

namespace rookery {

using nlohmann::json;

json parse_json_text(std::string_view text, int deepest, const std::string& what) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto look = [&](int depth, json::parse_event_t event, json& parsed) {
    check(depth <= deepest) ||
        fail("{} is nested too deeply: the file is damaged, copy it again", what);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      check(keys.back().insert(key).second) ||
          fail("{} has two entries called {}: expected each name once", what, key);
    }
    return true;
  };
  try {
    return json::parse(text, look);
  } catch (const json::exception& problem) {
    fail("{} is not valid JSON ({}): the file is damaged, copy or download it again", what,
         problem.what());
  }
}

json read_json_file(const std::filesystem::path& path) {
  constexpr int64_t kLongest = int64_t{16} << 20;
  const MappedFile file(path);
  check(file.size() <= kLongest) ||
      fail("'{}' has {} bytes, expected at most {}: is it the right file?", path.string(),
           file.size(), kLongest);
  json object =
      parse_json_text({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                      kDeepestJson, fmt::format("'{}'", path.string()));
  check(object.is_object()) || fail("'{}' is no JSON object: the file is damaged", path.string());
  return object;
}

int64_t whole_number(const json& value) {
  if (!value.is_number_unsigned()) return -1;
  const uint64_t number = value.get<uint64_t>();
  return number <= static_cast<uint64_t>(INT64_MAX) ? static_cast<int64_t>(number) : -1;
}

}  // namespace rookery
