#include "tokenizers/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "tokenizers/gpt2_split.h"
#include "tokenizers/unicode.h"

namespace rookery {
namespace {

// A short piece and its ids. Most pieces of natural text have been seen a moment ago.
struct alignas(64) Remembered {
  static constexpr int kWords = 3, kLongest = 24, kMostIds = 8;
  uint64_t words[kWords] = {};  // the piece, and zeros
  uint32_t serial = 0;          // 0: nothing is remembered
  uint8_t length = 0, count = 0;
  int32_t ids[kMostIds] = {};
};
static_assert(sizeof(Remembered) == 64, "one cache line");

constexpr int kRememberedBits = 15;

Remembered* remembered() {
  // Threads live as long as the program's work; their memory goes with them.
  thread_local std::unique_ptr<Remembered[]> table;
  if (table == nullptr) table = std::make_unique<Remembered[]>(size_t{1} << kRememberedBits);
  return table.get();
}

// The first `length` bytes, at most 24, as three words, then zeros. Reads up to `readable_end`, so
// that one load serves for each word nearly always.
void load_words(const char* at, int64_t length, const char* readable_end, uint64_t* words) {
  if (readable_end - at < Remembered::kLongest) {
    std::memcpy(words, at, static_cast<size_t>(length));
    return;
  }
  std::memcpy(words, at, Remembered::kLongest);
  for (int i = 0; i < Remembered::kWords; ++i) {
    const int64_t kept = std::clamp<int64_t>(length - 8 * i, 0, 8);
    words[i] = kept == 8 ? words[i] : words[i] & ((uint64_t{1} << (8 * kept)) - 1);
  }
}

}  // namespace

BpeTokenizer::BpeTokenizer(std::string definition, std::string_view source)
    : definition_(std::move(definition)) {
  static std::atomic<uint32_t> serials{0};
  serial_ = ++serials;
  TokenizerJson json = read_tokenizer_json(definition_, source);
  try {
    merges_ = BpeMerges(json.merges);
    for (Added* added : {&added_, &added_normalized_}) {
      std::vector<ByteTrie::Entry> entries;
      for (TokenizerJson::Added& token : json.added) {
        if (token.special || token.normalized != (added == &added_normalized_)) continue;
        if (token.normalized && json.nfc) token.content = to_nfc(token.content);
        entries.push_back({token.content, token.id});
        added->begins[static_cast<uint8_t>(token.content[0])] = added->any = true;
      }
      added->trie = ByteTrie(std::move(entries));
    }
    for (const TokenizerJson::Step& step : json.steps) {
      steps_.push_back({step.kind, Regex(step.pattern, step.literal)});
    }
  } catch (const Error& error) {
    fail("'{}': {}", source, error.what());
  }
  for (const TokenizerJson::Added& token : json.added) {
    if (token.special) special_.emplace_back(token.id, token.content);
  }
  std::sort(special_.begin(), special_.end());
  for (const std::string& bytes : json.bytes) {
    offsets_.push_back(static_cast<int64_t>(bytes_.size()));
    bytes_ += bytes;
  }
  offsets_.push_back(static_cast<int64_t>(bytes_.size()));
  byte_ids_ = json.byte_ids;
  nfc_ = json.nfc;
}

void BpeTokenizer::encode_to(std::string_view text, std::vector<int32_t>& ids) const {
  ids.reserve(ids.size() + text.size() / 4);
  const char* begin = text.data();
  while (!text.empty()) {
    const int64_t valid = valid_utf8_prefix(text);
    encode_valid(text.substr(0, valid), ids);
    text.remove_prefix(valid);
    if (text.empty()) break;
    const uint8_t byte = static_cast<uint8_t>(text.front());
    check(byte_ids_[byte] >= 0) ||
        fail(
            "the text has byte {} at offset {}, which is no UTF-8 and has no token: expected UTF-8",
            byte, text.data() - begin);
    ids.push_back(byte_ids_[byte]);
    text.remove_prefix(1);
  }
}

namespace {

// Cuts the added tokens out, the first and of those the longest; `encode` takes what lies between.
template <class Added, class Encode>
void cut_out(const Added& added, std::string_view text, std::vector<int32_t>& ids,
             const Encode& encode) {
  const char *begin = text.data(), *end = begin + text.size(), *at = begin;
  while (added.any && at != end) {
    if (!added.begins[static_cast<uint8_t>(*at)]) {
      ++at;
      continue;
    }
    const ByteTrie::Match match = added.trie.longest(at, end);
    if (match.id < 0) {
      ++at;
      continue;
    }
    if (at != begin) encode(std::string_view(begin, at - begin));
    ids.push_back(match.id);
    begin = at += match.length;
  }
  if (begin != end) encode(std::string_view(begin, end - begin));
}

}  // namespace

void BpeTokenizer::encode_valid(std::string_view text, std::vector<int32_t>& ids) const {
  cut_out(added_, text, ids, [&](std::string_view part) {
    if (nfc_ && !is_surely_nfc(part)) {
      encode_normalized(to_nfc(part), ids);
    } else {
      encode_normalized(part, ids);
    }
  });
}

void BpeTokenizer::encode_normalized(std::string_view text, std::vector<int32_t>& ids) const {
  cut_out(added_normalized_, text, ids, [&](std::string_view part) { split(0, part, ids); });
}

// The steps from `step` on; there are at most 18 of them, one call deep each.
void BpeTokenizer::split(size_t step, std::string_view text, std::vector<int32_t>& ids) const {
  using Kind = TokenizerJson::Step::Kind;
  const char *at = text.data(), *end = at + text.size();
  if (step == steps_.size()) {
    encode_piece(text, end, ids);
    return;
  }
  switch (steps_[step].kind) {
    case Kind::kPrefixSpace:
      if (text.starts_with(' ')) {
        split(step + 1, text, ids);
      } else {
        split(step + 1, " " + std::string(text), ids);
      }
      return;
    case Kind::kGpt2:
      // Always the last step.
      while (at != end) {
        const char* next = gpt2_piece_end(at, end);
        encode_piece({at, static_cast<size_t>(next - at)}, end, ids);
        at = next;
      }
      return;
    case Kind::kIsolate:
    case Kind::kKeep:
      split_by(steps_[step], step + 1, text, ids);
      return;
  }
}

void BpeTokenizer::split_by(const Step& step, size_t next, std::string_view text,
                            std::vector<int32_t>& ids) const {
  const bool isolate = step.kind == TokenizerJson::Step::Kind::kIsolate;
  Regex::Matches matches(step.regex, text);
  int64_t done = 0;
  while (const auto match = matches.next()) {
    if (isolate && match->begin > done) split(next, text.substr(done, match->begin - done), ids);
    if (match->end > match->begin) {
      split(next, text.substr(match->begin, match->end - match->begin), ids);
    }
    done = match->end;
  }
  if (isolate && done < static_cast<int64_t>(text.size())) split(next, text.substr(done), ids);
}

void BpeTokenizer::encode_piece(std::string_view piece, const char* readable_end,
                                std::vector<int32_t>& ids) const {
  const int64_t length = static_cast<int64_t>(piece.size());
  if (length > Remembered::kLongest) {
    merge_piece(piece, ids);
    return;
  }
  uint64_t words[Remembered::kWords] = {};
  load_words(piece.data(), length, readable_end, words);
  uint64_t hash = (words[0] ^ serial_) * 0x9E3779B97F4A7C15ull;
  hash = (hash ^ (hash >> 32) ^ words[1]) * 0xC2B2AE3D27D4EB4Full;
  hash = (hash ^ (hash >> 32) ^ words[2]) * 0x165667B19E3779F9ull;
  Remembered& entry = remembered()[hash >> (64 - kRememberedBits)];
  if (entry.serial == serial_ && entry.length == length && entry.words[0] == words[0] &&
      entry.words[1] == words[1] && entry.words[2] == words[2]) {
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return;
  }
  const size_t before = ids.size();
  merge_piece(piece, ids);
  const size_t count = ids.size() - before;
  if (count > Remembered::kMostIds) return;
  std::copy(words, words + Remembered::kWords, entry.words);
  entry.serial = serial_;
  entry.length = static_cast<uint8_t>(length);
  entry.count = static_cast<uint8_t>(count);
  std::copy(ids.end() - static_cast<int64_t>(count), ids.end(), entry.ids);
}

void BpeTokenizer::merge_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  for (const char byte : piece) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  ids.resize(before + merges_.apply(std::span(ids).subspan(before)));
}

std::string_view BpeTokenizer::bytes_of(int32_t id) const {
  check(id >= 0 && id < vocab_size()) ||
      fail(
          "token {} is not one of this tokenizer: expected 0 to {}; is this the model's tokenizer?",
          id, vocab_size() - 1);
  return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

}  // namespace rookery
