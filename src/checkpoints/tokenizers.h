// The tokenizer of a model: named by the user, carried by the model file, or found beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "checkpoints/load.h"
#include "tokenizers/tokenizer.h"

namespace rookery {

// The tokenizer of this name, without a model: "bytes", a vocabulary file, or a folder that holds
// one. Throws Error if the file cannot be read, or the folder holds no tokenizer or several.
std::unique_ptr<Tokenizer> named_tokenizer(const std::string& name);

// The tokenizer at a place: "bytes", a vocabulary file, a model with its tokenizer, or a folder
// with one of them. Throws Error as the functions here do.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& name);

// A model's tokenizer: the one that `name` names, as above; else, if `name` is empty, the one that
// the model file carries; else, with 256 ids, bytes; else one beside the model file whose size
// fits: MODEL.tokenizer.json, tokenizer.json, 20B_tokenizer.json or rwkv_vocab_DATE.txt. In a named
// folder, too, the one whose size fits is taken.
//
// Null if there is none; then `missing`, if given, becomes a sentence part that says which is
// expected and why those beside the model do not fit. The tokenizer has all of the model's ids:
// those that are padding stand for no bytes. Throws Error if it has more ids than the model, or if
// what was named or the model carries cannot be read.
std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model, const std::string& name,
                                          std::string* missing = nullptr);
// The same, but throws Error if there is none.
std::unique_ptr<Tokenizer> require_tokenizer(const LoadedModel& model, const std::string& name);

// Which tokenizer a model of this vocabulary was trained with, and where it is published: a
// sentence part for messages.
std::string expected_tokenizer(int64_t vocabulary);

}  // namespace rookery
