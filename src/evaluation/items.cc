#include "evaluation/items.h"

#include <algorithm>

#include "core/error.h"
#include "evaluation/json_line.h"

namespace rookery {
namespace {

using Json = nlohmann::json;

std::vector<std::string> list_field(const Json& object, const char* key, const std::string& where) {
  const Json& list = object.at(key);
  check(list.is_array()) ||
      fail("{}: \"{}\" is {}: expected a list of texts", where, key, list.type_name());
  check(list.size() >= 2 && list.size() <= static_cast<size_t>(ItemReader::kMostChoices)) ||
      fail("{}: \"{}\" has {} entries: expected 2 to {} to choose from", where, key, list.size(),
           ItemReader::kMostChoices);
  std::vector<std::string> texts;
  for (const Json& entry : list) {
    check(entry.is_string()) ||
        fail("{}: \"{}\" holds {}: expected texts", where, key, entry.type_name());
    texts.push_back(entry.get<std::string>());
  }
  return texts;
}

// Empty if there is none.
std::string id_of(const Json& object) {
  const auto found = object.find("id");
  if (found == object.end() || found->is_null()) return {};
  return found->is_string() ? found->get<std::string>() : found->dump();
}

}  // namespace

Item parse_item(std::string_view line, ItemForm form, const std::string& where) {
  const Json object = parse_json_line(
      line, {"id", "context", "contexts", "choices", "continuation", "gold"}, where);
  Item item;
  item.id = id_of(object);
  if (form == ItemForm::kContinuation) {
    item.contexts = {text_field(object, "context", where)};
    item.continuations = {text_field(object, "continuation", where)};
  } else if (object.contains("choices")) {
    item.contexts = {text_field(object, "context", where)};
    item.continuations = list_field(object, "choices", where);
  } else if (object.contains("contexts")) {
    item.contexts = list_field(object, "contexts", where);
    item.continuations = {text_field(object, "continuation", where)};
  } else {
    fail(
        "{}: neither \"choices\" nor \"contexts\": expected {{\"context\", \"choices\", \"gold\"}} "
        "or {{\"contexts\", \"continuation\", \"gold\"}}",
        where);
  }
  for (const std::string& continuation : item.continuations) {
    check(!continuation.empty()) ||
        fail("{}: {} is empty: there is nothing to score", where,
             item.continuations.size() > 1 ? "a choice" : "the continuation");
  }
  if (form == ItemForm::kContinuation) return item;
  // Each context reads it again.
  const size_t repeated =
      item.contexts.size() > 1 ? item.contexts.size() * item.continuations[0].size() : 0;
  check(static_cast<int64_t>(repeated) <= ItemReader::kMostLineBytes) ||
      fail("{}: {} contexts with a continuation of {} bytes each are too much: at most {} together",
           where, item.contexts.size(), item.continuations[0].size(), ItemReader::kMostLineBytes);
  const auto gold = object.find("gold");
  check(gold != object.end() && gold->is_number_integer()) ||
      fail("{}: \"gold\" is {}: expected the number of the right choice, from 0", where,
           gold == object.end() ? "not there" : gold->type_name());
  // A number beyond int64_t is unsigned, and would be negative here.
  item.gold = gold->is_number_unsigned() && gold->get<uint64_t>() > INT64_MAX
                  ? INT64_MAX
                  : gold->get<int64_t>();
  check(item.gold >= 0 && item.gold < item.choices()) ||
      fail("{}: \"gold\" is {}: the item has choices 0 to {}", where, item.gold,
           item.choices() - 1);
  return item;
}

bool ItemReader::next(Item& item) {
  std::string line;
  while (lines_.next(line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    item = parse_item(line, form_, lines_.where());
    item.line = lines_.number();
    if (item.id.empty()) item.id = std::to_string(item.line);
    return true;
  }
  return false;
}

int64_t count_items(const std::filesystem::path& path, ItemForm form, int64_t limit) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  check(!std::filesystem::is_other(status)) ||
      fail(
          "expected a regular file, '{}' is a device or a pipe: items are read twice, save them to "
          "a file first",
          path.string());
  ItemReader reader(path, form);
  Item item;
  int64_t count = 0;
  while ((limit == 0 || count < limit) && reader.next(item)) ++count;
  check(count > 0) || fail("'{}' holds no items: expected one JSON object per line", path.string());
  return count;
}

}  // namespace rookery
