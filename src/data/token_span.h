// Token ids as they lie in memory or in a mapped file: 1, 2, 4 or 8 bytes each, not copied, not
// owned. Nothing is assumed of alignment.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace rookery {

enum class TokenType : uint8_t { kU8, kU16, kI32, kI64 };

constexpr int64_t size_of(TokenType type) { return int64_t{1} << static_cast<int>(type); }
constexpr std::string_view name_of(TokenType type) {
  constexpr std::string_view kNames[] = {"u8", "u16", "i32", "i64"};
  return kNames[static_cast<int>(type)];
}

class TokenSpan {
 public:
  TokenSpan() = default;
  // `data` holds `count` ids of this type and outlives the span.
  TokenSpan(const void* data, int64_t count, TokenType type)
      : data_(static_cast<const std::byte*>(data)), count_(count), type_(type) {}
  TokenSpan(std::span<const uint8_t> ids)  // NOLINT: implicit by design, as the next three
      : TokenSpan(ids.data(), static_cast<int64_t>(ids.size()), TokenType::kU8) {}
  TokenSpan(std::span<const uint16_t> ids)  // NOLINT
      : TokenSpan(ids.data(), static_cast<int64_t>(ids.size()), TokenType::kU16) {}
  TokenSpan(std::span<const int32_t> ids)  // NOLINT
      : TokenSpan(ids.data(), static_cast<int64_t>(ids.size()), TokenType::kI32) {}
  template <class T>
  TokenSpan(const std::vector<T>& ids) : TokenSpan(std::span<const T>(ids)) {}  // NOLINT

  int64_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  TokenType type() const { return type_; }
  int64_t bytes() const { return count_ * size_of(type_); }
  const std::byte* data() const { return data_; }

  // An id; a file may hold anything, so below 0 and above every vocabulary, too.
  int64_t operator[](int64_t index) const {
    assert(index >= 0 && index < count_);
    switch (type_) {
      case TokenType::kU8:
        return load<uint8_t>(index);
      case TokenType::kU16:
        return load<uint16_t>(index);
      case TokenType::kI32:
        return load<int32_t>(index);
      case TokenType::kI64:
        return load<int64_t>(index);
    }
    return -1;
  }

  TokenSpan subspan(int64_t first, int64_t count) const {
    assert(first >= 0 && count >= 0 && count <= count_ - first);
    return {data_ + first * size_of(type_), count, type_};
  }

 private:
  template <class T>
  int64_t load(int64_t index) const {
    T id;
    std::memcpy(&id, data_ + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return static_cast<int64_t>(id);
  }

  const std::byte* data_ = nullptr;
  int64_t count_ = 0;
  TokenType type_ = TokenType::kU8;
};

}  // namespace rookery
