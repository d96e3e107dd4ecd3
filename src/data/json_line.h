// One line of a .jsonl file as a document: {"text": ".."}, or a conversation,
// {"messages": [{"role": "user", "content": ".."}, ..]} or
// {"conversations": [{"from": "human", "value": ".."}, ..]}, rendered as the text that a chat with
// the model has:
//   world   System: ..   User: ..   Assistant: ..      the form of RWKV's World and G1 models
//   raven   ..           Bob: ..    Alice: ..          of the Raven models; a system text has no
//   label
// Turns have a blank line between them; the last is followed by the end of the document only. A
// blank line ends an answer when the model speaks, so there is none inside a turn: "\r\n" and "\r"
// become "\n", several "\n" become one, other control characters but tab go, and so does white
// space at both ends. Raven saw the blank line as two tokens of a line end each, so each is a
// piece.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rookery {

enum class ConversationForm { kWorld, kRaven };

// "world" or "raven"; throws Error for anything else.
ConversationForm parse_conversation_form(std::string_view name);

// Text that is made into tokens by itself: at the border of two pieces there is always a border of
// two tokens, as when a program feeds a prompt and the model then answers.
struct TextPiece {
  std::string text;
  bool learned = true;  // whether the model should learn to write it
};

struct LineDocument {
  std::vector<TextPiece> pieces;  // none: an empty text
  bool end_learned = true;        // the end of the document
};

// Of a conversation the assistant's answers and their ends are learned: the blank line after an
// answer, or the end of the document; the labels, the system's and the user's words are not. A
// system turn without text is left out. Throws Error for what is not JSON or not one of the forms,
// for a role other than system, user (human) and assistant (gpt), for a turn without text, and for
// a conversation without an answer. The text comes from `line`; nothing in it is special.
LineDocument parse_json_line(std::string_view line, ConversationForm form);

}  // namespace rookery
