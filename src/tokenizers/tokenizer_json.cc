#include "tokenizers/tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "io/json.h"
#include "tokenizers/byte_trie.h"
#include "tokenizers/gpt2_split.h"
#include "tokenizers/unicode.h"

namespace rookery {
namespace {

using Json = nlohmann::json;
using Ids = std::unordered_map<std::string_view, int32_t>;

// A value for a message: JSON, cut short.
std::string shown(const Json& value) {
  constexpr size_t kShown = 80;
  const std::string text = value.dump();
  if (text.size() <= kShown) return text;
  return text.substr(0, valid_utf8_prefix(std::string_view(text).substr(0, kShown))) + "...";
}

class Reader {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  TokenizerJson read(const Json& json) {
    only(json, "the file",
         {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
          "post_processor", "decoder", "model"});
    for (const char* key : {"truncation", "padding"}) expect_null(json, key);
    read_post_processor(field(json, "post_processor"));
    expect_type(field(json, "decoder"), "decoder", "ByteLevel");
    read_normalizer(field(json, "normalizer"), "normalizer");
    read_pre_tokenizer(field(json, "pre_tokenizer"), "pre_tokenizer", true);
    read_model(field(json, "model"), field(json, "added_tokens"));
    return std::move(result_);
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("'{}': {}", source_, fmt::format(format, std::forward<Args>(args)...));
  }
  // For what is asked a few times only: the arguments are made whether they are needed or not.
  template <class... Args>
  void expect(bool ok, fmt::format_string<Args...> format, Args&&... args) const {
    if (!ok) refuse(format, std::forward<Args>(args)...);
  }

  // The field, or null if there is none.
  static const Json& field(const Json& object, const char* key) {
    static const Json kNull;
    const auto found = object.find(key);
    return found == object.end() ? kNull : *found;
  }

  void only(const Json& object, std::string_view what,
            std::initializer_list<std::string_view> known) const {
    expect(object.is_object(), "{} is {}: expected an object", what, shown(object));
    for (const auto& [key, value] : object.items()) {
      expect(std::find(known.begin(), known.end(), key) != known.end(),
             "{} has the field {}, which byte-level BPE as it is known here does not have", what,
             shown(key));
    }
  }

  void expect_null(const Json& object, const char* key) const {
    const Json& value = field(object, key);
    expect(value.is_null(), "{} is {}: expected null, nothing else is known here", key,
           shown(value));
  }

  bool flag(const Json& object, const char* key, bool otherwise) const {
    const Json& value = field(object, key);
    if (value.is_null()) return otherwise;
    expect(value.is_boolean(), "{} is {}: expected true or false", key, shown(value));
    return value.get<bool>();
  }

  void expect_flag(const Json& object, const char* key, bool wanted) const {
    expect(flag(object, key, wanted) == wanted, "{} is {}: only {} is known here", key, !wanted,
           wanted);
  }

  std::string type_of(const Json& object, std::string_view what) const {
    expect(object.is_object() && field(object, "type").is_string(),
           "{} is {}: expected an object with a type", what, shown(object));
    return object["type"].get<std::string>();
  }

  void expect_type(const Json& object, const char* what, const char* wanted) const {
    const std::string type = type_of(object, what);
    expect(type == wanted, "{} has type {}: only {} is known here", what, shown(type), wanted);
  }

  const Json& list(const Json& object, const char* key, std::string_view what) const {
    constexpr size_t kMostParts = 16;
    const Json& value = field(object, key);
    expect(value.is_array() && value.size() <= kMostParts, "{} has no list {} of at most {} parts",
           what, key, kMostParts);
    return value;
  }

  // It would add ids around a text; ByteLevel's only trims offsets.
  void read_post_processor(const Json& json) const {
    if (!json.is_null()) expect_type(json, "post_processor", "ByteLevel");
  }

  void read_normalizer(const Json& json, const std::string& what) {
    if (json.is_null()) return;
    const std::string type = type_of(json, what);
    if (type == "Sequence") {
      only(json, what, {"type", "normalizers"});
      for (const Json& part : list(json, "normalizers", what)) {
        read_normalizer(part, what + ".normalizers");
      }
      return;
    }
    expect(type == "NFC", "{} has type {}: only NFC is known here", what, shown(type));
    only(json, what, {"type"});
    result_.nfc = true;
  }

  // `last`: whether this part cuts what is then merged. That is ByteLevel's task, and only its.
  void read_pre_tokenizer(const Json& json, const std::string& what, bool last) {
    using Kind = TokenizerJson::Step::Kind;
    const std::string type = type_of(json, what);
    if (type == "Sequence") {
      only(json, what, {"type", "pretokenizers"});
      const Json& parts = list(json, "pretokenizers", what);
      expect(!parts.empty(), "{} is empty: expected ByteLevel at its end", what);
      for (size_t i = 0; i < parts.size(); ++i) {
        read_pre_tokenizer(parts[i], what + ".pretokenizers", last && i + 1 == parts.size());
      }
    } else if (type == "ByteLevel") {
      only(json, what, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
      expect(last, "{} has ByteLevel before its end: expected it once, as the last part", what);
      // The default of the library that writes these files is true for both.
      if (flag(json, "add_prefix_space", true)) result_.steps.push_back({Kind::kPrefixSpace});
      if (flag(json, "use_regex", true)) result_.steps.push_back({Kind::kGpt2});
    } else if (type == "Split") {
      expect(!last, "{} ends with Split: expected ByteLevel as the last part", what);
      read_split(json, what);
    } else {
      expect(false, "{} has type {}: only ByteLevel, Split and Sequence are known here", what,
             shown(type));
    }
  }

  void read_split(const Json& json, const std::string& what) {
    using Kind = TokenizerJson::Step::Kind;
    only(json, what, {"type", "pattern", "behavior", "invert"});
    const Json& pattern = field(json, "pattern");
    const bool is_one = pattern.is_object() && pattern.size() == 1 && pattern.front().is_string();
    const bool literal = is_one && pattern.contains("String");
    expect(is_one && (literal || pattern.contains("Regex")),
           "{} has the pattern {}: expected Regex or String", what, shown(pattern));
    const bool invert = flag(json, "invert", false);
    const Json& behavior = field(json, "behavior");
    const bool isolate = behavior == "Isolated" && !invert, keep = behavior == "Removed" && invert;
    expect(isolate || keep,
           "{} has behavior {} and invert {}: only Isolated and false, or Removed and true, are "
           "known here",
           what, shown(behavior), invert);
    result_.steps.push_back(
        {isolate ? Kind::kIsolate : Kind::kKeep, pattern.front().get<std::string>(), literal});
  }

  void read_model(const Json& model, const Json& added) {
    expect_type(model, "model", "BPE");
    only(model, "the model",
         {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
          "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    // unk_token and fuse_unk: nothing is unknown where every byte has a token.
    const Json& dropout = field(model, "dropout");
    expect(dropout.is_null() || dropout == 0.0, "dropout is {}: only null is known here",
           shown(dropout));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = field(model, key);
      expect(value.is_null() || value == "", "{} is {}: only null is known here", key,
             shown(value));
    }
    expect_flag(model, "byte_fallback", false);
    expect_flag(model, "ignore_merges", false);
    const Json &vocabulary = field(model, "vocab"), &merges = field(model, "merges");
    expect(vocabulary.is_object() && merges.is_array(), "the model has no vocab and merges");
    expect(added.is_null() || added.is_array(), "added_tokens is no list");
    read_vocabulary(vocabulary, added.size());
    read_added(added);
    read_alphabet(vocabulary);
    read_merges(merges);
  }

  // Fills ids_; the strings stay in `vocabulary`.
  void read_vocabulary(const Json& vocabulary, size_t added) {
    // Ids need not be contiguous, but memory is for all of them.
    const int64_t most =
        std::min(2 * static_cast<int64_t>(vocabulary.size() + added) + 65536, ByteTrie::kLargestId);
    largest_id_ = most;
    ids_.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary.items()) {
      take_id(id_of(id, token), token);
      ids_.emplace(token, id.get<int32_t>());
    }
  }

  int32_t id_of(const Json& id, const std::string& token) const {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(largest_id_)) {
      refuse(
          "token {} has the id {}: expected whole numbers about as many as the tokens, here up to "
          "{}",
          shown(token), shown(id), largest_id_);
    }
    return id.get<int32_t>();
  }

  void take_id(int32_t id, const std::string& token) {
    if (id >= static_cast<int64_t>(taken_.size())) {
      taken_.resize(id + 1);
      result_.bytes.resize(id + 1);
    }
    if (taken_[id]) {
      refuse("token {} has the id {}, which another token has, too", shown(token), id);
    }
    taken_[id] = true;
  }

  void read_added(const Json& added) {
    std::unordered_set<std::string> contents;
    for (const Json& json : added) {
      only(json, "an added token",
           {"id", "content", "special", "normalized", "single_word", "lstrip", "rstrip"});
      const Json& content = field(json, "content");
      expect(content.is_string() && content != "", "the added token {} has no content",
             shown(json));
      const std::string& text = content.get_ref<const std::string&>();
      TokenizerJson::Added token{id_of(field(json, "id"), text), text, flag(json, "special", false),
                                 flag(json, "normalized", true)};
      // The text of a special token is not looked for, so that it does not matter how.
      if (!token.special) {
        for (const char* key : {"single_word", "lstrip", "rstrip"}) expect_flag(json, key, false);
      }
      expect(contents.insert(token.content).second, "the added token {} is there twice",
             shown(content));
      const auto known = ids_.find(token.content);
      if (known != ids_.end()) {
        expect(known->second == token.id, "the added token {} has the id {}, in vocab it has {}",
               shown(content), token.id, known->second);
      } else {
        take_id(token.id, text);
      }
      if (token.special) {
        if (special_.size() < taken_.size()) special_.resize(taken_.size());
        special_[token.id] = true;
      } else {
        result_.bytes[token.id] = token.content;
      }
      result_.added.push_back(std::move(token));
    }
    expect(is_special(0),
           "token 0 is not special: expected the end of a document there, as in all tokenizers of "
           "RWKV models");
  }

  bool is_special(int32_t id) const {
    return id < static_cast<int64_t>(special_.size()) && special_[id];
  }

  // The bytes of the tokens of `vocabulary`, and the tokens of the single bytes.
  void read_alphabet(const Json& vocabulary) {
    constexpr size_t kCodes = 0x144;  // the alphabet's last character is U+0143
    std::array<int16_t, kCodes> byte_of;
    byte_of.fill(-1);
    for (int byte = 0; byte < 256; ++byte)
      byte_of[byte_alphabet()[byte]] = static_cast<int16_t>(byte);
    std::vector<bool> is_added(taken_.size());
    for (const TokenizerJson::Added& token : result_.added) is_added[token.id] = true;
    result_.byte_ids.fill(-1);
    for (const auto& [token, json_id] : vocabulary.items()) {
      const int32_t id = json_id.get<int32_t>();
      if (is_added[id]) continue;  // its text is itself
      expect(!token.empty(), "a token is empty: expected at least one byte");
      std::string bytes;
      for (const char *at = token.data(), *end = at + token.size(); at != end;) {
        const uint32_t code = next_character(at);
        if (code >= kCodes || byte_of[code] < 0) {
          refuse(
              "token {} has a character outside of the alphabet of bytes: this is no byte-level "
              "vocabulary",
              shown(token));
        }
        bytes += static_cast<char>(byte_of[code]);
      }
      if (bytes.size() == 1) result_.byte_ids[static_cast<uint8_t>(bytes[0])] = id;
      result_.bytes[id] = std::move(bytes);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const bool in_text = byte < 0xF5 && byte != 0xC0 && byte != 0xC1;  // of UTF-8
      expect(!in_text || result_.byte_ids[byte] >= 0,
             "there is no token for the single byte {}: expected all that occur in UTF-8, so that "
             "any text can be encoded",
             byte);
    }
  }

  void read_merges(const Json& merges) {
    result_.merges.reserve(merges.size());
    std::string joined;
    for (const Json& merge : merges) {
      std::string_view left, right;
      if (merge.is_string()) {
        const std::string& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
          left = std::string_view(text).substr(0, space);
          right = std::string_view(text).substr(space + 1);
        }
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0].get_ref<const std::string&>();
        right = merge[1].get_ref<const std::string&>();
      }
      if (left.empty() || right.empty()) {
        refuse("merge {} is {}: expected two tokens, \"a b\" or [\"a\", \"b\"]",
               result_.merges.size(), shown(merge));
      }
      joined.assign(left).append(right);
      const auto id = [&](std::string_view token) {
        const auto found = ids_.find(token);
        if (found == ids_.end()) {
          refuse("merge {} is {}: {} is not in vocab", result_.merges.size(), shown(merge),
                 shown(token));
        }
        return found->second;
      };
      result_.merges.push_back({id(left), id(right), id(joined)});
      if (is_special(result_.merges.back().made)) {
        refuse("merge {} is {}, which makes a special token: expected that no text does",
               result_.merges.size() - 1, shown(merge));
      }
    }
  }

  std::string_view source_;
  TokenizerJson result_;
  Ids ids_;
  std::vector<bool> taken_, special_;  // [id]
  int64_t largest_id_ = 0;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, std::string_view source) {
  return Reader(source).read(parse_json_text(text, kDeepestJson, fmt::format("'{}'", source)));
}

}  // namespace rookery
