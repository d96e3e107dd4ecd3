#include "data/training_data.h"

#include <algorithm>

#include "core/error.h"
#include "io/hash.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

uint64_t hash_of(const TokenSpan& tokens, std::span<const uint8_t> mask, ThreadPool& pool) {
  const uint64_t hashes[] = {
      static_cast<uint64_t>(tokens.type()),
      hash_blocks({tokens.data(), static_cast<size_t>(tokens.bytes())}, pool),
      hash_blocks(std::as_bytes(mask), pool)};
  return hash_bytes({reinterpret_cast<const char*>(hashes), sizeof hashes});
}

}  // namespace

PreparedData::PreparedData(const fs::path& name) : tokens(name) {
  std::error_code error;
  if (fs::exists(mask_of(name), error)) {
    mask_file.emplace(mask_of(name));
    check(mask_file->size() == tokens.tokens().size()) ||
        fail(
            "'{}' has {} bytes, expected one for each of the {} tokens: it belongs to other data; "
            "remove it or prepare again",
            mask_of(name).string(), mask_file->size(), tokens.tokens().size());
  }
  if (fs::exists(about_of(name), error)) {
    // A vocabulary is a few MB.
    constexpr int64_t kLargest = int64_t{256} << 20;
    const MappedFile file(about_of(name));
    check(file.size() <= kLargest) ||
        fail("'{}' has {} bytes: it is no description of prepared data", file.path().string(),
             file.size());
    about = about_from_json(
        {reinterpret_cast<const char*>(file.bytes().data()), static_cast<size_t>(file.size())},
        file.path().string());
    check(about->tokens == tokens.tokens().size()) ||
        fail(
            "'{}' speaks of {} tokens, there are {}: it belongs to other data; remove it or "
            "prepare again",
            file.path().string(), about->tokens, tokens.tokens().size());
  }
}

std::span<const uint8_t> PreparedData::mask() const {
  if (!mask_file) return {};
  return {reinterpret_cast<const uint8_t*>(mask_file->bytes().data()), mask_file->bytes().size()};
}

bool is_prepared(std::span<const fs::path> files) {
  for (const fs::path& file : files) {
    if (!prepared_name(file)) continue;
    check(files.size() == 1) || fail(
                                    "'{}' is prepared data: it cannot be mixed with other files; "
                                    "prepare all of them together",
                                    file.string());
    return true;
  }
  return false;
}

TrainingData open_training_data(std::span<const fs::path> files, const Tokenizer* tokenizer,
                                ThreadPool& pool) {
  TrainingData data;
  if (!is_prepared(files)) {
    assert(tokenizer != nullptr);
    data.text = read_text(files, *tokenizer, pool);
    data.tokens = data.text->tokens();
    data.has_documents = data.text->has_documents;
    data.hash = hash_of(data.tokens, {}, pool);
    data.bytes_per_token =
        static_cast<double>(data.text->bytes) / static_cast<double>(data.tokens.size());
    return data;
  }
  data.prepared = std::make_unique<PreparedData>(*prepared_name(files.front()));
  data.tokens = data.prepared->tokens.tokens();
  data.mask = data.prepared->mask();
  data.has_documents = data.prepared->tokens.documents() > 1;
  data.hash = hash_of(data.tokens, data.mask, pool);
  if (data.prepared->about && data.mask.empty()) {
    data.bytes_per_token = data.prepared->about->bytes_per_token();
  }
  return data;
}

int64_t first_outside(TokenSpan tokens, int64_t vocabulary,
                      const std::function<bool(int64_t)>& go_on) {
  // Every id of the type fits.
  if (tokens.type() == TokenType::kU8 && vocabulary >= 256) return -1;
  if (tokens.type() == TokenType::kU16 && vocabulary >= 65536) return -1;
  constexpr int64_t kBlock = int64_t{1} << 22;
  for (int64_t begin = 0; begin < tokens.size(); begin += kBlock) {
    if (!go_on(begin)) return -1;
    const int64_t end = std::min(begin + kBlock, tokens.size());
    for (int64_t i = begin; i < end; ++i) {
      if (static_cast<uint64_t>(tokens[i]) >= static_cast<uint64_t>(vocabulary)) return i;
    }
  }
  return -1;
}

}  // namespace rookery
