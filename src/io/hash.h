// FNV-1a, 64 bits: tells apart what was changed by accident. No defence against forgery.
#pragma once

#include <cstdint>
#include <string_view>

namespace rookery {

inline constexpr uint64_t kEmptyHash = 14695981039346656037ull;

// The hash of what gave `hash`, followed by `bytes`.
inline uint64_t hash_bytes(std::string_view bytes, uint64_t hash = kEmptyHash) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace rookery
