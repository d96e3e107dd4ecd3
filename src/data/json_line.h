// One line of a .jsonl file as a document: {"text": ".."}, or a conversation,
// {"messages": [{"role": "user", "content": ".."}, ..]} or
// {"conversations": [{"from": "human", "value": ".."}, ..]}, rendered as the text that a chat with
// the model has (text/chat_template.h), its messages cleaned. Turns have a blank line between them;
// the last is followed by the end of the document only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

namespace rookery {

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
LineDocument parse_json_line(std::string_view line, const ChatTemplate& chat);

}  // namespace rookery
