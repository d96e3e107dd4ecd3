#include "evaluation/json_line.h"

#include <algorithm>

#include "core/error.h"

namespace rookery {

nlohmann::json parse_json_line(std::string_view line, std::initializer_list<std::string_view> keys,
                               const std::string& where) {
  using Json = nlohmann::json;
  const Json::parser_callback_t keep = [&](int depth, Json::parse_event_t event, Json& value) {
    check(depth <= 3) ||
        fail("{}: nested more than three deep: expected an object of texts and lists", where);
    return event != Json::parse_event_t::key || depth != 1 ||
           std::find(keys.begin(), keys.end(), value.get_ref<const std::string&>()) != keys.end();
  };
  Json object;
  try {
    object = Json::parse(line, keep);
  } catch (const Json::parse_error& error) {
    fail("{}: no valid JSON at byte {}: expected one object per line, in UTF-8", where, error.byte);
  } catch (const Json::out_of_range&) {
    fail("{}: a number is too large: expected one that fits 64 bits", where);
  }
  check(object.is_object()) ||
      fail("{}: expected an object, found {}: one object per line", where, object.type_name());
  return object;
}

std::string text_field(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  check(found != object.end()) ||
      fail("{}: there is no \"{}\": expected a text under this name", where, key);
  check(found->is_string()) ||
      fail("{}: \"{}\" is {}: expected a text", where, key, found->type_name());
  return found->get<std::string>();
}

}  // namespace rookery
