#include "data/training_data.h"

#include <algorithm>

#include "core/error.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHashedWhole = int64_t{16} << 20;
constexpr int64_t kSamples = 4096, kSampleBytes = 4096;

uint64_t mix(uint64_t hash, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    hash = (hash ^ static_cast<uint64_t>(byte)) * 1099511628211ull;
  }
  return hash;
}

// FNV-1a of the size and of all bytes, or of samples.
uint64_t sampled_hash(uint64_t hash, std::span<const std::byte> bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  hash = mix(hash, std::as_bytes(std::span(&size, 1)));
  if (size <= kHashedWhole) return mix(hash, bytes);
  for (int64_t i = 0; i < kSamples; ++i) {
    // The last sample ends with the data. The quotient first: the product of both could overflow.
    const int64_t room = size - kSampleBytes;
    const int64_t at = room / (kSamples - 1) * i + room % (kSamples - 1) * i / (kSamples - 1);
    hash = mix(hash, bytes.subspan(static_cast<size_t>(at), kSampleBytes));
  }
  return hash;
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
            "prepare "
            "again",
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
    data.hash = data.text->hash;
    data.bytes_per_token =
        static_cast<double>(data.text->bytes) / static_cast<double>(data.tokens.size());
    return data;
  }
  data.prepared = std::make_unique<PreparedData>(*prepared_name(files.front()));
  data.tokens = data.prepared->tokens.tokens();
  data.mask = data.prepared->mask();
  data.has_documents = data.prepared->tokens.documents() > 1;
  const auto type = static_cast<std::byte>(data.tokens.type());
  data.hash = mix(14695981039346656037ull, std::span(&type, 1));
  data.hash =
      sampled_hash(data.hash, {data.tokens.data(), static_cast<size_t>(data.tokens.bytes())});
  if (!data.mask.empty()) data.hash = sampled_hash(data.hash, std::as_bytes(data.mask));
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
