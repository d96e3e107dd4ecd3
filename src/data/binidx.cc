#include "data/binidx.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr int64_t kHeader = 34;
constexpr int64_t kBuffer = int64_t{1} << 20;

fs::path with_suffix(const fs::path& name, const char* suffix) {
  fs::path path = name;
  path += suffix;
  return path;
}

TokenType type_of_code(int code, const fs::path& path) {
  switch (code) {
    case 4:
      return TokenType::kI32;
    case 5:
      return TokenType::kI64;
    case 8:
      return TokenType::kU16;
    default:
      break;
  }
  static constexpr std::array<std::string_view, 8> kOthers = {"", "u8", "i8",          "i16",
                                                              "", "",   "f64 (float)", "f64"};
  const bool known = code >= 0 && code < 8 && !kOthers[static_cast<size_t>(code)].empty();
  fail("'{}' says that a token is of type {} ({}): expected 4 (i32), 5 (i64) or 8 (u16)",
       path.string(), code, known ? kOthers[static_cast<size_t>(code)] : "unknown");
}

uint8_t code_of(TokenType type) { return type == TokenType::kU16 ? 8 : 4; }

template <class T>
void append_bytes(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

fs::path bin_of(const fs::path& name) { return with_suffix(name, ".bin"); }
fs::path idx_of(const fs::path& name) { return with_suffix(name, ".idx"); }
fs::path mask_of(const fs::path& name) { return with_suffix(name, ".mask"); }
fs::path about_of(const fs::path& name) { return with_suffix(name, ".json"); }

std::optional<fs::path> prepared_name(const fs::path& path) {
  if (path.extension() == ".bin" || path.extension() == ".idx") {
    fs::path name = path;
    return name.replace_extension();
  }
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error)) return {};
  if (fs::exists(idx_of(path), error) || fs::exists(bin_of(path), error)) return path;
  return {};
}

BinIdx::BinIdx(const fs::path& name) : bin_(bin_of(name)), idx_(idx_of(name)) {
  const std::span<const std::byte> idx = idx_.bytes();
  const std::string path = idx_.path().string();
  check(idx_.size() >= kHeader && std::memcmp(idx.data(), kMagic.data(), kMagic.size()) == 0) ||
      fail("'{}' is no index of prepared data: expected it to begin with MMIDIDX", path);
  const auto version = load_at<uint64_t>(idx, 9);
  check(version == 1) || fail("'{}' is of version {}: expected 1", path, version);
  const TokenType type = type_of_code(load_at<uint8_t>(idx, 17), idx_.path());
  const auto sequences = load_at<uint64_t>(idx, 18), entries = load_at<uint64_t>(idx, 26);
  // Both are bounded by the file's size before anything is multiplied.
  const auto room = static_cast<uint64_t>(idx_.size());
  check(sequences <= room / 12 && entries <= room / 8 &&
        kHeader + 12 * sequences + 8 * entries == room) ||
      fail(
          "'{}' has {} bytes: expected {} + 12 x {} sequences + 8 x {} documents; it is cut off or "
          "damaged",
          path, room, kHeader, sequences, entries);
  check(sequences > 0 && entries > 1) ||
      fail("'{}' lists {} sequences and {} document borders: it is empty", path, sequences,
           entries);
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(entries) - 1;

  const int64_t item = size_of(type);
  check(bin_.size() % item == 0) || fail("'{}' has {} bytes: expected whole tokens of {} bytes",
                                         bin_.path().string(), bin_.size(), item);
  const int64_t pointers = kHeader + 4 * sequences_;
  int64_t at = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const auto size = load_at<int32_t>(idx, kHeader + 4 * i);
    const auto pointer = load_at<int64_t>(idx, pointers + 8 * i);
    check(size >= 0 && pointer == at) ||
        fail(
            "'{}': sequence {} has {} tokens from byte {}, expected it to begin at byte {}; the "
            "index is damaged",
            path, i, size, pointer, at);
    check(size <= (bin_.size() - at) / item) ||
        fail(
            "'{}': sequence {} has {} tokens from byte {}, but '{}' has only {} bytes; are the two "
            "of one data set, and whole?",
            path, i, size, at, bin_.path().string(), bin_.size());
    at += size * item;
  }
  check(at == bin_.size()) ||
      fail("'{}' lists {} bytes of tokens, '{}' has {}: are the two of one data set, and whole?",
           path, at, bin_.path().string(), bin_.size());
  const int64_t borders = pointers + 8 * sequences_;
  int64_t before = 0;
  for (int64_t i = 0; i <= documents_; ++i) {
    const auto border = load_at<int64_t>(idx, borders + 8 * i);
    const bool fits = i == 0            ? border == 0
                      : i == documents_ ? border == sequences_ && border >= before
                                        : border >= before && border <= sequences_;
    check(fits) ||
        fail("'{}': document {} begins with sequence {} after {}, of {}; the index is damaged",
             path, i, border, before, sequences_);
    before = border;
  }
  tokens_ = TokenSpan(bin_.bytes().data(), bin_.size() / item, type);
}

int32_t BinIdx::size_of_sequence(int64_t index) const {
  assert(index >= 0 && index < sequences_);
  return load_at<int32_t>(idx_.bytes(), kHeader + 4 * index);
}

BinIdxWriter::BinIdxWriter(const fs::path& name, int64_t vocabulary, bool masked)
    : name_(name),
      vocabulary_(vocabulary),
      masked_(masked),
      type_(vocabulary <= 65536 ? TokenType::kU16 : TokenType::kI32) {
  check(name.has_filename()) ||
      fail("'{}' is no name for data: expected one such as data/book", name.string());
  bin_.emplace(bin_of(name));
}

void BinIdxWriter::append(std::span<const int32_t> ids, bool learned) {
  while (!ids.empty()) {
    if (size_ == longest_sequence) {
      sizes_.push_back(static_cast<int32_t>(size_));
      if (continues_) continued_.push_back(static_cast<int64_t>(sizes_.size()) - 1);
      continues_ = true;
      size_ = 0;
    }
    const auto count =
        std::min<int64_t>(static_cast<int64_t>(ids.size()), longest_sequence - size_);
    put(ids.first(static_cast<size_t>(count)), learned);
    ids = ids.subspan(static_cast<size_t>(count));
    size_ += count;
  }
}

void BinIdxWriter::end_document(bool learned) {
  constexpr int32_t kEnd = 0;
  append(std::span(&kEnd, 1), learned);
  sizes_.push_back(static_cast<int32_t>(size_));
  if (continues_) continued_.push_back(static_cast<int64_t>(sizes_.size()) - 1);
  continues_ = false;
  size_ = 0;
}

void BinIdxWriter::put(std::span<const int32_t> ids, bool learned) {
  if (masked_ && !learned && !mask_) {
    mask_.emplace(mask_of(name_));
    const std::string ones(static_cast<size_t>(kBuffer), '\1');
    for (int64_t left = tokens_; left > 0; left -= kBuffer) {
      mask_->write(ones.data(), std::min(left, kBuffer));
    }
  }
  const auto append_as = [&]<class Id>(Id) {
    const size_t before = bin_buffer_.size();
    bin_buffer_.resize(before + ids.size() * sizeof(Id));
    char* to = bin_buffer_.data() + before;
    for (const int32_t id : ids) {
      check(id >= 0 && id < vocabulary_) ||
          fail("the tokenizer gave token {}: its vocabulary has 0 to {}; is its file whole?", id,
               vocabulary_ - 1);
      const auto stored = static_cast<Id>(id);
      std::memcpy(to, &stored, sizeof(Id));
      to += sizeof(Id);
    }
  };
  type_ == TokenType::kU16 ? append_as(uint16_t{}) : append_as(int32_t{});
  if (mask_) mask_buffer_.append(ids.size(), learned ? '\1' : '\0');
  tokens_ += static_cast<int64_t>(ids.size());
  if (learned || !masked_) learned_ += static_cast<int64_t>(ids.size());
  if (static_cast<int64_t>(bin_buffer_.size()) >= kBuffer) flush();
}

void BinIdxWriter::flush() {
  bin_->write(bin_buffer_.data(), static_cast<int64_t>(bin_buffer_.size()));
  bin_buffer_.clear();
  if (mask_) mask_->write(mask_buffer_.data(), static_cast<int64_t>(mask_buffer_.size()));
  mask_buffer_.clear();
}

void BinIdxWriter::commit(std::string_view about) {
  assert(size_ == 0 && !continues_);
  check(tokens_ > 0) || fail("there is no text to prepare: every input is empty");
  flush();
  AtomicFile idx(idx_of(name_)), json(about_of(name_));
  json.write(about.data(), static_cast<int64_t>(about.size()));

  std::string buffer(kMagic);
  const auto put_number = [&](auto number) {
    append_bytes(buffer, number);
    if (static_cast<int64_t>(buffer.size()) >= kBuffer) {
      idx.write(buffer.data(), static_cast<int64_t>(buffer.size()));
      buffer.clear();
    }
  };
  put_number(uint64_t{1});
  put_number(code_of(type_));
  put_number(static_cast<uint64_t>(sizes_.size()));
  put_number(static_cast<uint64_t>(documents() + 1));
  for (const int32_t size : sizes_) put_number(size);
  int64_t pointer = 0;
  for (const int32_t size : sizes_) {
    put_number(pointer);
    pointer += size * size_of(type_);
  }
  const auto sequences = static_cast<int64_t>(sizes_.size());
  auto continued = continued_.begin();
  for (int64_t i = 0; i < sequences; ++i) {
    if (continued != continued_.end() && *continued == i) {
      ++continued;
    } else {
      put_number(i);
    }
  }
  put_number(sequences);
  idx.write(buffer.data(), static_cast<int64_t>(buffer.size()));

  std::error_code absent;
  fs::remove(idx_of(name_), absent);
  if (!mask_) fs::remove(mask_of(name_), absent);
  bin_->commit();
  if (mask_) mask_->commit();
  json.commit();
  idx.commit();
}

}  // namespace rookery
