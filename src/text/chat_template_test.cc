#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tokenizers/bytes.h"

namespace rookery {
namespace {

TEST(ChatTemplate, World) {
  const ChatTemplate chat = chat_template("world");
  EXPECT_EQ(user_block(chat, "hi"), "User: hi\n\nAssistant:");
  EXPECT_EQ(system_block(chat, "Be brief."), "System: Be brief.\n\n");
  EXPECT_EQ(chat_stops(chat), (std::vector<std::string>{"\n\n", "\nUser:"}));
  EXPECT_FALSE(chat.lines_apart);
}

TEST(ChatTemplate, Raven) {
  const ChatTemplate chat = chat_template("raven");
  EXPECT_EQ(user_block(chat, "hi"), "Bob: hi\n\nAlice:");
  EXPECT_EQ(system_block(chat, "Bob asks, Alice answers."), "Bob asks, Alice answers.\n\n");
  EXPECT_EQ(chat_stops(chat), (std::vector<std::string>{"\n\n", "\nBob:"}));
}

TEST(ChatTemplate, PlainHasItsOwnNames) {
  const ChatTemplate chat = chat_template("plain", "ROMEO", "JULIET");
  EXPECT_EQ(user_block(chat, "hi"), "ROMEO: hi\n\nJULIET:");
  EXPECT_EQ(chat_stops(chat), (std::vector<std::string>{"\n\n", "\nROMEO:"}));
  EXPECT_EQ(chat, chat_template("plain", "ROMEO", "JULIET"));
  for (const char* name : {"", " A", "A:", "A\nB", "A\x1b", "\xff"}) {
    EXPECT_THROW(chat_template("plain", name, "B"), Error) << name;
    EXPECT_THROW(chat_template("plain", "B", name), Error) << name;
  }
  EXPECT_THROW(chat_template("plain", "A", "A"), Error);
  EXPECT_THROW(chat_template("alpaca"), Error);
}

TEST(ChatTemplate, ThinkModesOfGeneration7) {
  const ChatTemplate chat = chat_template("world");
  const auto text = [&](const char* mode) { return user_block(chat, "hi", think_mode(mode, "7")); };
  EXPECT_EQ(text("off"), "User: hi\n\nAssistant:");
  EXPECT_EQ(text("on"), "User: hi\n\nAssistant: <think");
  EXPECT_EQ(text("think"), "User: hi (think)\n\nAssistant: <think");
  EXPECT_EQ(text("bit"), "User: hi (think a bit)\n\nAssistant: <think");
  EXPECT_EQ(text("lot"), "User: hi (think a lot)\n\nAssistant: <think");
  EXPECT_EQ(text("fast"), "User: hi\n\nAssistant: <think>\n</think");
  EXPECT_EQ(think_mode("off", "4").name, "off");
  try {
    think_mode("bit", "4");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("RWKV-4 was not trained to think"), std::string::npos);
  }
  EXPECT_THROW(think_mode("deep", "7"), Error);
}

TEST(ChatTemplate, DefaultsByVocabulary) {
  EXPECT_EQ(default_chat_template("neox", 50277), "raven");
  EXPECT_EQ(default_chat_template("world", 65536), "world");
  EXPECT_EQ(default_chat_template("world", 65530), "world");
  EXPECT_EQ(default_chat_template("bytes", 256), "plain");
}

TEST(ChatTemplate, IsChosenByNameThenBySpeakersThenByVocabulary) {
  EXPECT_EQ(choose_chat_template("raven", {}, {}, "world", 65536), chat_template("raven"));
  EXPECT_EQ(choose_chat_template("", {}, {}, "world", 65536), chat_template("world"));
  // One name is enough; the other speaker keeps the usual one.
  EXPECT_EQ(choose_chat_template("", "Ada", {}, "world", 65536),
            chat_template("plain", "Ada", "Assistant"));
  EXPECT_EQ(choose_chat_template("", {}, "Bob", "world", 65536),
            chat_template("plain", "User", "Bob"));
  EXPECT_EQ(choose_chat_template("plain", "A", "B", "world", 65536),
            chat_template("plain", "A", "B"));
  EXPECT_THROW(choose_chat_template("world", "Ada", {}, "world", 65536), Error);
  EXPECT_THROW(choose_chat_template("alpaca", {}, {}, "world", 65536), Error);
}

TEST(ChatTemplate, CleansMessages) {
  EXPECT_EQ(clean_message("hi"), "hi");
  EXPECT_EQ(clean_message("  a\r\nb\r\n\r\n\r\nc\n\n\nd\t \n"), "a\nb\nc\nd");
  EXPECT_EQ(clean_message("a\rb"), "a\nb");
  EXPECT_EQ(clean_message("a\n\x01\nb"), "a\nb");
  EXPECT_EQ(clean_message(std::string_view("a\0b\x1b[1m\x7f\tc", 10)), "ab[1m\tc");
  EXPECT_EQ(clean_message("caf\xc3\xa9 \xff!"), "caf\xc3\xa9 \xef\xbf\xbd!");
  EXPECT_EQ(clean_message(" \n\r\n\x02 "), "");
  EXPECT_EQ(clean_message(""), "");
}

// One token per byte, and one for the blank line, as GPT-NeoX and World have it.
class BlankLineTokenizer final : public Tokenizer {
 public:
  std::string_view name() const override { return "blank"; }
  int64_t vocab_size() const override { return 257; }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override {
    for (size_t i = 0; i < text.size(); ++i) {
      const bool blank = text.substr(i, 2) == "\n\n";
      ids.push_back(blank ? 256 : static_cast<unsigned char>(text[i]));
      i += blank ? 1 : 0;
    }
  }
  std::string_view bytes_of(int32_t id) const override {
    return id == 256 ? "\n\n" : bytes_.bytes_of(id);
  }
  std::string definition() const override { return "blank"; }

 private:
  ByteTokenizer bytes_;
};

TEST(ChatTemplate, RavenReadsTheBlankLineAsTwo) {
  const BlankLineTokenizer tokenizer;
  const auto ids = [&](const char* name, std::string_view text) {
    std::vector<int32_t> result;
    encode_chat(chat_template(name), tokenizer, text, result);
    return result;
  };
  EXPECT_EQ(ids("world", "a\n\nb\n\n"), (std::vector<int32_t>{'a', 256, 'b', 256}));
  EXPECT_EQ(ids("raven", "a\n\nb\n\n"), (std::vector<int32_t>{'a', '\n', '\n', 'b', '\n', '\n'}));
  EXPECT_EQ(ids("raven", "\n\n"), (std::vector<int32_t>{'\n', '\n'}));
  EXPECT_EQ(ids("raven", "a\nb"), (std::vector<int32_t>{'a', '\n', 'b'}));
  EXPECT_TRUE(ids("raven", "").empty());
}

TEST(ChatTemplate, SplitsThoughtsOff) {
  const auto expect = [](std::string_view answer, std::string_view thought, std::string_view text) {
    const ChatAnswer split = split_answer(answer);
    EXPECT_EQ(split.thought, thought);
    EXPECT_EQ(split.text, text);
  };
  expect(" Hello.", "", "Hello.");
  expect(" <think>\nHm.\n</think>\nYes.", "Hm.", "Yes.");
  expect(" <think>\n</think>\nYes.", "", "Yes.");
  expect("<think></think>Yes. ", "", "Yes.");
  expect(" <think>Hm, cut", "Hm, cut", "");
  expect(" <think", "", "");
  expect("I say <think>.", "", "I say <think>.");
  expect("", "", "");
}

}  // namespace
}  // namespace rookery
