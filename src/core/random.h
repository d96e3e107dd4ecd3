// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a number depends on the seed
// and its index only, not on what was drawn before, on threads or on the machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

// GPU kernels draw from the same function.
#ifdef __CUDACC__
#define ROOKERY_HOST_DEVICE __host__ __device__
#else
#define ROOKERY_HOST_DEVICE
#endif

namespace rookery {

namespace philox_words {

ROOKERY_HOST_DEVICE inline uint64_t multiply(uint32_t word, uint32_t constant) {
  return uint64_t{constant} * word;
}
ROOKERY_HOST_DEVICE inline uint32_t high(uint64_t product) {
  return static_cast<uint32_t>(product >> 32);
}
ROOKERY_HOST_DEVICE inline uint32_t low(uint64_t product) { return static_cast<uint32_t>(product); }
ROOKERY_HOST_DEVICE inline uint32_t add(uint32_t word, uint32_t constant) {
  return word + constant;
}
ROOKERY_HOST_DEVICE inline uint32_t exclusive_or(uint32_t a, uint32_t b, uint32_t c) {
  return a ^ b ^ c;
}
#include "core/philox.inc"

}  // namespace philox_words

// Four words of 32 bits.
struct PhiloxBlock {
  uint32_t x, y, z, w;

  bool operator==(const PhiloxBlock&) const = default;
  ROOKERY_HOST_DEVICE uint32_t operator[](int64_t word) const {
    return word == 0 ? x : word == 1 ? y : word == 2 ? z : w;
  }
};

ROOKERY_HOST_DEVICE inline PhiloxBlock philox(uint64_t seed, uint64_t stream, uint64_t index) {
  PhiloxBlock block{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  philox_words::philox_rounds(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                              block.x, block.y, block.z, block.w);
  return block;
}

// A sequence of numbers of one (seed, stream). `position` may be saved and restored.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint32_t next_u32() {
    const PhiloxBlock block = philox(seed_, stream_, position_ / 4);
    return block[static_cast<int64_t>(position_++ % 4)];
  }
  uint64_t next_u64() {
    const uint64_t high = next_u32();
    return high << 32 | next_u32();
  }
  // Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }
  // Uniform in [0, n), n > 0.
  uint64_t below(uint64_t n) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next_u64()) * n) >> 64);
  }
  // Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  uint64_t position() const { return position_; }
  void set_position(uint64_t position) { position_ = position; }

 private:
  uint64_t seed_, stream_, position_ = 0;
};

}  // namespace rookery
