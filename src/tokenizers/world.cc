// Reads both forms of the vocabulary; encodes by one walk through the trie for each token.
#include "tokenizers/world.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "io/json.h"
#include "tokenizers/unicode.h"

namespace rookery {
namespace {

struct Token {
  int64_t id = 0;
  std::string bytes;
};

// The bytes of '...', "...", b'...' or b"...", as Python's repr() writes them; nothing if it is no
// such literal.
std::optional<std::string> parse_literal(std::string_view literal) {
  const bool is_bytes = literal.starts_with('b');
  if (is_bytes) literal.remove_prefix(1);
  if (literal.size() < 2 || literal.front() != literal.back() ||
      (literal.front() != '\'' && literal.front() != '"')) {
    return std::nullopt;
  }
  const char quote = literal.front();
  literal = literal.substr(1, literal.size() - 2);
  std::string bytes;
  for (size_t at = 0; at < literal.size(); ++at) {
    const char character = literal[at];
    if (character == quote) return std::nullopt;
    if (character != '\\') {
      bytes += character;
      continue;
    }
    if (++at == literal.size()) return std::nullopt;
    size_t digits = 0;
    switch (literal[at]) {
      case '\\':
      case '\'':
      case '"':
        bytes += literal[at];
        continue;
      case 'n':
        bytes += '\n';
        continue;
      case 'r':
        bytes += '\r';
        continue;
      case 't':
        bytes += '\t';
        continue;
      case 'x':
        digits = 2;
        break;
      case 'u':
        digits = 4;
        break;
      case 'U':
        digits = 8;
        break;
      default:
        return std::nullopt;
    }
    if (is_bytes && digits > 2) return std::nullopt;
    if (literal.size() - at - 1 < digits) return std::nullopt;
    const char *begin = literal.data() + at + 1, *end = begin + digits;
    uint32_t code = 0;
    const auto [next, error] = std::from_chars(begin, end, code, 16);
    if (error != std::errc() || next != end) return std::nullopt;
    at += digits;
    if (is_bytes) {
      bytes += static_cast<char>(code);
    } else {
      if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return std::nullopt;
      append_utf8(code, bytes);
    }
  }
  return bytes;
}

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t number = 0;
  const auto [next, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || next != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// The beginning of a line for a message.
std::string excerpt(std::string_view line) {
  constexpr size_t kShown = 60;
  if (line.size() <= kShown) return std::string(line);
  // Not inside a character.
  return std::string(line.substr(0, valid_utf8_prefix(line.substr(0, kShown)))) + "...";
}

std::vector<Token> read_lines(std::string_view text, std::string_view source) {
  std::vector<Token> tokens;
  int64_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t length = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, length);
    text.remove_prefix(std::min(length + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const size_t first = line.find(' '), last = line.rfind(' ');
    check(first != std::string_view::npos && first < last) ||
        fail("line {} of '{}' is '{}': expected ID LITERAL LENGTH, such as 258 '\\t\\n' 2", number,
             source, excerpt(line));
    const std::optional<int64_t> id = parse_number(line.substr(0, first));
    const std::optional<int64_t> bytes = parse_number(line.substr(last + 1));
    std::optional<std::string> literal = parse_literal(line.substr(first + 1, last - first - 1));
    check(id && bytes && literal) || fail(
                                         "line {} of '{}' is '{}': expected an id, a Python "
                                         "literal such as '\\t\\n' or b'\\xff', and its length",
                                         number, source, excerpt(line));
    check(static_cast<int64_t>(literal->size()) == *bytes) ||
        fail(
            "line {} of '{}' claims {} bytes, its literal has {}: the file is damaged, copy or "
            "download it again",
            number, source, *bytes, literal->size());
    tokens.push_back({*id, std::move(*literal)});
  }
  return tokens;
}

std::vector<Token> read_json(std::string_view text, std::string_view source) {
  const nlohmann::json json = parse_json_text(text, kDeepestJson, fmt::format("'{}'", source));
  check(json.is_object()) || fail("'{}' is JSON, but no object of ids and strings", source);
  std::vector<Token> tokens;
  for (const auto& [key, value] : json.items()) {
    const std::optional<int64_t> id = parse_number(key);
    check(id.has_value()) || fail("'{}' has the key '{}': expected token ids, or a tokenizer.json",
                                  source, excerpt(key));
    if (value.is_string()) {
      tokens.push_back({*id, value.get<std::string>()});
      continue;
    }
    check(value.is_array()) ||
        fail("token {} of '{}' is neither a string nor a list of bytes", *id, source);
    std::string bytes;
    for (const nlohmann::json& byte : value) {
      check(byte.is_number_unsigned() && byte.get<uint64_t>() < 256) ||
          fail("token {} of '{}' has {} among its bytes: expected 0 to 255", *id, source,
               byte.dump());
      bytes += static_cast<char>(byte.get<uint64_t>());
    }
    tokens.push_back({*id, std::move(bytes)});
  }
  return tokens;
}

}  // namespace

WorldTokenizer::WorldTokenizer(std::string definition, std::string_view source)
    : definition_(std::move(definition)) {
  const int64_t valid = valid_utf8_prefix(definition_);
  check(valid == static_cast<int64_t>(definition_.size())) ||
      fail("'{}' is no UTF-8 text (at byte {}): the file is damaged, copy or download it again",
           source, valid);
  std::vector<Token> tokens = definition_.starts_with('{') ? read_json(definition_, source)
                                                           : read_lines(definition_, source);
  const auto by_id = [](const Token& a, const Token& b) { return a.id < b.id; };
  std::sort(tokens.begin(), tokens.end(), by_id);
  if (!tokens.empty() && tokens.front().id == 0) tokens.front().bytes.clear();
  // Ids need not be contiguous, but memory is for all of them: a few tokens with ids in the
  // millions are refused.
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t largest = tokens.empty() ? 0 : tokens.back().id;
  check(largest <= std::min(2 * count + 65536, ByteTrie::kLargestId)) ||
      fail("'{}' has {} tokens and the id {}: expected ids that are about as many as the tokens",
           source, count, largest);
  std::array<bool, 256> single{};
  offsets_.reserve(largest + 2);
  for (const Token& token : tokens) {
    check(static_cast<int64_t>(offsets_.size()) <= token.id) ||
        fail("'{}' has the token {} twice: expected each id once", source, token.id);
    while (static_cast<int64_t>(offsets_.size()) <= token.id) {
      offsets_.push_back(static_cast<int64_t>(bytes_.size()));
    }
    bytes_ += token.bytes;
    if (token.bytes.size() == 1) single[static_cast<uint8_t>(token.bytes[0])] = true;
  }
  offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  const auto missing = std::find(single.begin(), single.end(), false);
  check(missing == single.end()) ||
      fail(
          "'{}' has no token for the single byte {}: expected all 256, so that any text can be "
          "encoded; is this an RWKV World vocabulary?",
          source, missing - single.begin());
  std::vector<ByteTrie::Entry> entries;
  entries.reserve(tokens.size());
  for (const Token& token : tokens) {
    if (token.id == 0) continue;
    entries.push_back({token.bytes, static_cast<int32_t>(token.id)});
  }
  try {
    trie_ = ByteTrie(std::move(entries));
  } catch (const Error& error) {
    fail("'{}': {}", source, error.what());
  }
}

void WorldTokenizer::encode_to(std::string_view text, std::vector<int32_t>& ids) const {
  // 4.3 bytes per token are common in English.
  ids.reserve(ids.size() + text.size() / 4);
  const char *at = text.data(), *end = at + text.size();
  while (at != end) {
    const ByteTrie::Match match = trie_.longest(at, end);  // at least one byte: all 256 are there
    ids.push_back(match.id);
    at += match.length;
  }
}

std::string_view WorldTokenizer::bytes_of(int32_t id) const {
  check(id >= 0 && id < vocab_size()) || fail(
                                             "token {} is not one of the World vocabulary: "
                                             "expected 0 to {}; is this the model's tokenizer?",
                                             id, vocab_size() - 1);
  return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

}  // namespace rookery
