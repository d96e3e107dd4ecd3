#include "evaluation/items.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/error.h"
#include "checking/files_for_tests.h"
#include "evaluation/json_line.h"

namespace rookery {
namespace {

// The message, or "" if nothing was thrown.
std::string refusal(const std::string& line, ItemForm form) {
  try {
    parse_item(line, form, "file:3");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Items, BothForms) {
  const Item word = parse_item(R"({"id": 7, "context": "a b", "continuation": " c"})",
                               ItemForm::kContinuation, "f:1");
  EXPECT_EQ(word.id, "7");
  EXPECT_EQ(word.contexts, std::vector<std::string>{"a b"});
  EXPECT_EQ(word.continuations, std::vector<std::string>{" c"});

  const Item choices = parse_item(
      R"({"id": "x/1", "subject": {"deep": [1]}, "context": "", "choices": [" A", " B", " C"], "gold": 2})",
      ItemForm::kChoices, "f:1");
  EXPECT_EQ(choices.id, "x/1");
  EXPECT_EQ(choices.contexts, std::vector<std::string>{""});
  EXPECT_EQ(choices.choices(), 3);
  EXPECT_EQ(choices.gold, 2);

  const Item contexts = parse_item(R"({"contexts": ["a", "b"], "continuation": " c", "gold": 1})",
                                   ItemForm::kChoices, "f:1");
  EXPECT_EQ(contexts.contexts.size(), 2u);
  EXPECT_EQ(contexts.choices(), 2);
  EXPECT_EQ(contexts.id, "");
}

TEST(Items, HostileLines) {
  const struct {
    std::string line, words;
  } wrong[] = {
      {"", "no valid JSON"},
      {"{", "no valid JSON"},
      {"[1, 2]", "expected an object, found array"},
      {"null", "expected an object"},
      {"{\"context\": \"\xff\xfe\", \"choices\": [\"a\", \"b\"], \"gold\": 0}", "no valid JSON"},
      {R"({"context": "a"})", "neither \"choices\" nor \"contexts\""},
      {R"({"choices": ["a", "b"], "gold": 0})", "there is no \"context\""},
      {R"({"context": 5, "choices": ["a", "b"], "gold": 0})", "\"context\" is number"},
      {R"({"context": "c", "choices": "ab", "gold": 0})", "\"choices\" is string"},
      {R"({"context": "c", "choices": [], "gold": 0})", "has 0 entries"},
      {R"({"context": "c", "choices": ["a"], "gold": 0})", "has 1 entries"},
      {R"({"context": "c", "choices": ["a", 5], "gold": 0})", "holds number"},
      {R"({"context": "c", "choices": ["a", ""], "gold": 0})", "a choice is empty"},
      {R"({"context": "c", "choices": ["a", "b"]})", "\"gold\" is not there"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": "1"})", "\"gold\" is string"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": 0.5})", "\"gold\" is number"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": 2})", "choices 0 to 1"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": -1})", "choices 0 to 1"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": 18446744073709551615})",
       "choices 0 to 1"},
      {R"({"context": "c", "choices": ["a", "b"], "gold": 1e999})", "a number is too large"},
      {R"({"contexts": ["a", "b"], "gold": 0})", "there is no \"continuation\""},
      {R"({"contexts": ["a", "b"], "continuation": "", "gold": 0})", "the continuation is empty"},
      {R"({"contexts": {"a": 1}, "continuation": "c", "gold": 0})", "\"contexts\" is object"},
      {R"({"a": [[[[[5]]]]]})", "nested more than three deep"},
      {std::string(200000, '['), "nested more than three deep"},
  };
  for (const auto& [line, words] : wrong) {
    const std::string message = refusal(line, ItemForm::kChoices);
    EXPECT_TRUE(message.starts_with("file:3: ")) << line.substr(0, 100) << ": " << message;
    EXPECT_NE(message.find(words), std::string::npos) << message;
  }
  EXPECT_NE(refusal(R"({"context": "a", "continuation": ""})", ItemForm::kContinuation), "");
  EXPECT_NE(refusal(R"({"context": "a"})", ItemForm::kContinuation), "");
  // Few bytes that would be much work.
  std::string repeated = R"({"contexts": ["a")";
  for (int i = 0; i < 900; ++i) repeated += R"(,"b")";
  repeated += R"(], "gold": 0, "continuation": ")" + std::string(10000, 'c') + "\"}";
  EXPECT_NE(refusal(repeated, ItemForm::kChoices).find("too much"), std::string::npos);
}

TEST(Items, AnyDamageIsAnErrorOrAnItem) {
  const std::string good =
      R"({"id": 1e3, "context": "c\u00e9\n", "choices": [" a", " b"], "gold": 1, "x": [{}, null]})";
  int refused = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string line = good;
      line[at] = static_cast<char>(line[at] ^ (1 << bit));
      try {
        const Item item = parse_item(line, ItemForm::kChoices, "file:3");
        EXPECT_LT(item.gold, item.choices());
      } catch (const Error& error) {
        EXPECT_TRUE(std::string(error.what()).starts_with("file:3: ")) << error.what();
        ++refused;
      }
    }
    EXPECT_NE(refusal(good.substr(0, at), ItemForm::kChoices), "") << at;
  }
  EXPECT_GT(refused, 300);
}

TEST(Items, FilesAreReadLineByLine) {
  const TemporaryFolder folder;
  const std::string good = R"({"context": "c", "choices": [" a", " b"], "gold": 1})";
  const auto path =
      save(folder, "items.jsonl", good + "\r\n\n  \n" + good + "\n" + good);  // no end of line
  ItemReader reader(path, ItemForm::kChoices);
  Item item;
  std::vector<int64_t> lines;
  std::vector<std::string> ids;
  while (reader.next(item)) {
    lines.push_back(item.line);
    ids.push_back(item.id);
  }
  EXPECT_EQ(lines, (std::vector<int64_t>{1, 4, 5}));
  EXPECT_EQ(ids, (std::vector<std::string>{"1", "4", "5"}));
  EXPECT_EQ(count_items(path, ItemForm::kChoices, 0), 3);
  EXPECT_EQ(count_items(path, ItemForm::kChoices, 2), 2);
}

TEST(Items, WrongFiles) {
  const TemporaryFolder folder;
  const auto message = [&](const std::filesystem::path& path) -> std::string {
    try {
      count_items(path, ItemForm::kChoices, 0);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(save(folder, "empty", "")).find("holds no items"), std::string::npos);
  EXPECT_NE(message(save(folder, "blank", "\n\n")).find("holds no items"), std::string::npos);
  EXPECT_NE(message(save(folder, "bad", "\n{}\n")).find("bad:2: "), std::string::npos);
  const std::string huge(ItemReader::kMostLineBytes + 200000, ' ');
  EXPECT_NE(message(save(folder, "huge", "{}" + huge)).find("huge:1: the line has more than"),
            std::string::npos);
  EXPECT_NE(message(folder.path()).find("is a folder"), std::string::npos);
  EXPECT_NE(message(folder.path() / "absent"), "");
  // Opening a pipe that nobody writes to would wait for ever.
  ASSERT_EQ(::mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_NE(message(folder.path() / "pipe").find("is a device or a pipe"), std::string::npos);
}

TEST(JsonLine, OtherNamesAreNotKept) {
  const auto object =
      parse_json_line(R"({"text": "t", "meta": {"text": [1, 2]}})", {"text"}, "f:1");
  EXPECT_EQ(object.dump(), R"({"text":"t"})");
}

}  // namespace
}  // namespace rookery
