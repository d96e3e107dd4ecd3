#include "quantization/blocks.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "core/dtype.h"

namespace rookery {
namespace {

float load_half(const std::byte* from) {
  Float16 half;
  std::memcpy(&half.bits, from, sizeof(half.bits));
  return to_float(half);
}

int nibble(const std::byte* quants, int64_t element) {
  const int pair = static_cast<int>(quants[element % 16]);
  return element < 16 ? pair & 15 : pair >> 4;
}

int with_fifth_bit(const std::byte* fifth, const std::byte* quants, int64_t element) {
  const int bit = static_cast<int>(fifth[element / 8]) >> (element % 8) & 1;
  return nibble(quants, element) | bit << 4;
}

void read_q4_0(const std::byte* block, float* out) {
  const float scale = load_half(block);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(nibble(block + 2, i) - 8) * scale;
  }
}

void read_q4_1(const std::byte* block, float* out) {
  const float scale = load_half(block), least = load_half(block + 2);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(nibble(block + 4, i)) * scale + least;
  }
}

void read_q5_0(const std::byte* block, float* out) {
  const float scale = load_half(block);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(with_fifth_bit(block + 2, block + 6, i) - 16) * scale;
  }
}

void read_q5_1(const std::byte* block, float* out) {
  const float scale = load_half(block), least = load_half(block + 2);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(with_fifth_bit(block + 4, block + 8, i)) * scale + least;
  }
}

void read_q8_0(const std::byte* block, float* out) {
  const float scale = load_half(block);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
  }
}

void write_q8_0(const float* numbers, std::byte* block) {
  constexpr float kLargest = 127;
  float most = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    check(std::isfinite(numbers[i])) || fail("it holds {}: expected finite numbers", numbers[i]);
    most = std::max(most, std::abs(numbers[i]));
  }
  Float16 half = to_float16(most / kLargest);
  // Among the smallest float16s rounding down may lose more than the half step that 127 can take.
  if (to_float(half) * (kLargest + 0.5f) < most) ++half.bits;
  const float scale = to_float(half);
  check(std::isfinite(scale)) ||
      fail("it holds {} (or its negative), too large for the scale of a block", most);
  std::memcpy(block, &half.bits, sizeof(half.bits));
  for (int64_t i = 0; i < kBlock; ++i) {
    const float steps = scale > 0 ? std::clamp(numbers[i] / scale, -kLargest, kLargest) : 0;
    block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::nearbyint(steps)));
  }
}

}  // namespace

const BlockType kQ4_0 = {"Q4_0", "q4_0", 18, read_q4_0, nullptr};
const BlockType kQ4_1 = {"Q4_1", "q4_1", 20, read_q4_1, nullptr};
const BlockType kQ5_0 = {"Q5_0", "q5_0", 22, read_q5_0, nullptr};
const BlockType kQ5_1 = {"Q5_1", "q5_1", 24, read_q5_1, nullptr};
const BlockType kQ8_0 = {"Q8_0", "q8_0", 34, read_q8_0, write_q8_0};

void read_blocks(const BlockType& type, const std::byte* blocks, int64_t count, float* out) {
  assert(count % kBlock == 0);
  for (int64_t i = 0; i < count; i += kBlock, blocks += type.bytes) type.read(blocks, out + i);
}

void write_blocks(const BlockType& type, const float* numbers, int64_t count, std::byte* blocks) {
  assert(count % kBlock == 0 && type.write != nullptr);
  for (int64_t i = 0; i < count; i += kBlock, blocks += type.bytes) type.write(numbers + i, blocks);
}

}  // namespace rookery
