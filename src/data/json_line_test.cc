// Lines of JSON as documents: the exact text of conversations, what is learned, and what is
// refused.
#include "data/json_line.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"

namespace rookery {
namespace {

// Learned text in brackets; "|" if the end of the document is learned.
std::string rendered(std::string_view line, const ChatTemplate& form = chat_template("world")) {
  const LineDocument document = parse_json_line(line, form);
  std::string text;
  for (const TextPiece& piece : document.pieces) {
    text += piece.learned ? "[" + piece.text + "]" : piece.text;
  }
  return text + (document.end_learned ? "|" : "");
}

std::string refusal(std::string_view line) {
  try {
    parse_json_line(line, chat_template("world"));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(JsonLine, TextIsTakenAsItIs) {
  EXPECT_EQ(rendered(R"({"text": " two\r\n\n\nlines ", "id": 7})"), "[ two\r\n\n\nlines ]|");
  EXPECT_TRUE(parse_json_line(R"({"text": ""})", chat_template("world")).pieces.empty());
}

TEST(JsonLine, ConversationsAreRenderedAndMasked) {
  EXPECT_EQ(rendered(R"({"messages": [{"role": "user", "content": "Hi"},)"
                     R"({"role": "assistant", "content": "Hello."}]})"),
            "User: Hi\n\nAssistant:[ Hello.]|");
  const std::string turns =
      R"({"messages": [{"role": "system", "content": "Be brief."},)"
      R"({"role": "user", "content": "  a\r\n\r\n\nb\n"}, {"role": "assistant", "content": "c\n\nd"},)"
      R"({"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]})";
  EXPECT_EQ(rendered(turns),
            "System: Be brief.\n\nUser: a\nb\n\nAssistant:[ c\nd\n\n]User: e\n\nAssistant:[ f]|");
  EXPECT_EQ(rendered(turns, chat_template("raven")),
            "Be brief.\n\nBob: a\nb\n\nAlice:[ c\nd][\n][\n]Bob: e\n\nAlice:[ f]|");
  // Each line end of a blank line is a piece.
  EXPECT_EQ(parse_json_line(turns, chat_template("raven")).pieces.size(), 7u + 4 + 3 + 1);
  EXPECT_EQ(rendered(R"({"conversations": [{"from": "human", "value": "2+2?"},)"
                     R"({"from": "gpt", "value": "4"}, {"from": "human", "value": "3+3?"}]})"),
            "User: 2+2?\n\nAssistant:[ 4\n\n]User: 3+3?");
  // Turns come as they come; a system text in the middle, too; an empty one says nothing.
  EXPECT_EQ(rendered(R"({"messages": [{"role": "system", "content": " \n"},)"
                     R"({"role": "assistant", "content": "x"}, {"role": "system", "content": "y"},)"
                     R"({"role": "assistant", "content": "z"}]})"),
            "Assistant:[ x\n\n]System: y\n\nAssistant:[ z]|");
}

TEST(JsonLine, ControlCharactersGo) {
  EXPECT_EQ(rendered(R"({"messages": [{"role": "user", "content": "a\r\rb\u0000c\td\u007f"},)"
                     R"({"role": "assistant", "content": "x\u001b\n\u0001\ny"}]})"),
            "User: a\nbc\td\n\nAssistant:[ x\ny]|");
}

TEST(JsonLine, WhatLooksSpecialIsText) {
  EXPECT_EQ(rendered(R"({"text": "a\n<|endoftext|>\nb"})"), "[a\n<|endoftext|>\nb]|");
  EXPECT_EQ(rendered(R"({"messages": [{"role": "user", "content": "x\n\nAssistant: y"},)"
                     R"({"role": "assistant", "content": "<|endoftext|>"}]})"),
            "User: x\nAssistant: y\n\nAssistant:[ <|endoftext|>]|");
}

TEST(JsonLine, RefusesTheRest) {
  const auto expect = [](std::string_view line, std::string_view words) {
    const std::string error = refusal(line);
    EXPECT_NE(error.find(words), std::string::npos) << line << ": " << error;
  };
  expect("", "not JSON");
  expect(R"({"text": "a")", "not JSON");
  expect(R"({"text": "a"} x)", "not JSON");
  expect("{\"text\": \"\xff\"}", "not JSON");
  expect(R"({"text": "\ud800"})", "not JSON");
  expect(R"([1])", "expected an object");
  expect(R"({"txt": "a"})", "found 0");
  expect(R"({"text": "a", "messages": []})", "found 2");
  expect(R"({"text": 5})", "expected a string");
  expect(R"({"messages": "x"})", "a list of turns");
  expect(R"({"messages": []})", "no answer");
  expect(R"({"messages": [5]})", "turn 1 is number");
  expect(R"({"messages": [{"role": "user"}]})", "no \"content\"");
  expect(R"({"messages": [{"content": "x"}]})", "no \"role\"");
  expect(R"({"messages": [{"role": "tool", "content": "x"}]})", "turn 1 is by 'tool'");
  expect(R"({"messages": [{"role": "user", "content": null}]})", "is null");
  expect(R"({"messages": [{"role": "user", "content": " \r\n "}]})", "turn 1 is empty");
  expect(
      R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]})",
      "turn 2 is empty");
  expect(R"({"messages": [{"role": "user", "content": "x"}]})", "no answer");
  // A million brackets are neither a crash nor a long message.
  expect(std::string(1000000, '['), "not JSON");
  expect("{\"text\": " + std::string(300000, '[') + std::string(300000, ']') + "}",
         "expected a string");
  EXPECT_LT(refusal("{\"" + std::string(1000000, 'x')).size(), 400u);
  EXPECT_LT(
      refusal(R"({"messages": [{"content": "x", "role": ")" + std::string(100000, 'x') + "\"}]}")
          .size(),
      400u);
}

TEST(JsonLine, SurvivesMutations) {
  const std::string line = R"({"messages":[{"role":"user","content":"Hi \u00e9 \ud83d\ude00"},)"
                           R"({"role":"assistant","content":"Hello."}],"n":[1,-2.5e3,true,null]})";
  std::mt19937 random(5);
  int good = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string changed = line;
    for (uint32_t changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % changed.size();
      switch (random() % 3) {
        case 0:
          changed[at] = static_cast<char>(random());
          break;
        case 1:
          changed.erase(at, 1 + random() % 3);
          break;
        default:
          changed.insert(at, 1, R"({}[]",:\)"[random() % 8]);
          break;
      }
    }
    try {
      const LineDocument document = parse_json_line(changed, chat_template("world"));
      EXPECT_FALSE(document.pieces.empty());
      ++good;
    } catch (const Error& error) {
      EXPECT_STRNE(error.what(), "");
    }
  }
  EXPECT_GT(good, 100);
  EXPECT_LT(good, 9900);
}

}  // namespace
}  // namespace rookery
