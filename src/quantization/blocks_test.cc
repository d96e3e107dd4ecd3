#include "quantization/blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/dtype.h"

namespace rookery {
namespace {

constexpr int64_t kQ8Bytes = 34;

std::vector<std::byte> written(const std::vector<float>& numbers) {
  std::vector<std::byte> blocks(static_cast<size_t>(bytes_in(kQ8_0, std::ssize(numbers))));
  write_blocks(kQ8_0, numbers.data(), std::ssize(numbers), blocks.data());
  return blocks;
}

std::vector<float> read_back(const std::vector<std::byte>& blocks) {
  std::vector<float> numbers(blocks.size() / kQ8Bytes * kBlock);
  read_blocks(kQ8_0, blocks.data(), std::ssize(numbers), numbers.data());
  return numbers;
}

float scale_of(const std::vector<std::byte>& blocks, size_t block) {
  Float16 scale;
  std::memcpy(&scale.bits, blocks.data() + block * kQ8Bytes, sizeof(scale.bits));
  return to_float(scale);
}

TEST(Blocks, AScaleThenTheNumbers) {
  std::vector<float> numbers(kBlock);
  for (int i = 0; i < kBlock; ++i) numbers[static_cast<size_t>(i)] = static_cast<float>(i - 16) / 4;
  numbers[3] = -127.0f / 4;  // the scale is 1/4
  const std::vector<std::byte> blocks = written(numbers);
  ASSERT_EQ(blocks.size(), 34u);
  EXPECT_EQ(blocks[0], std::byte{0x00});
  EXPECT_EQ(blocks[1], std::byte{0x34});  // 0.25 in float16
  for (size_t i = 0; i < kBlock; ++i) {
    EXPECT_EQ(static_cast<int8_t>(blocks[2 + i]), i == 3 ? -127 : static_cast<int>(i) - 16);
  }
  EXPECT_EQ(read_back(blocks), numbers);
}

// Magnitudes from below the smallest float16 to the largest that a block holds.
TEST(Blocks, EveryNumberComesBackWithinHalfAStep) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (int power = -60; power <= 22; ++power) {
    std::vector<float> numbers(4 * kBlock);
    for (float& number : numbers) number = std::ldexp(uniform(random), power);
    const std::vector<std::byte> blocks = written(numbers);
    const std::vector<float> back = read_back(blocks);
    for (size_t i = 0; i < numbers.size(); ++i) {
      const float scale = scale_of(blocks, i / kBlock);
      // Half a step, and what the division and the product in float32 round off.
      EXPECT_LE(std::abs(back[i] - numbers[i]), scale * (0.5f + 127 * 0x1p-23f))
          << power << " " << numbers[i];
      // The largest magnitude decides the scale: no step is wasted but for a float16's rounding.
      EXPECT_LE(scale, std::ldexp(1.0f, power) / 127 * 1.001f + 0x1p-24f);
    }
    // Below, d is one of the few smallest float16s, and 127 d may not be reached.
    if (power >= -8) {
      EXPECT_EQ(written(back), blocks) << power;
    }
  }
}

TEST(Blocks, ZerosStayZeros) {
  const std::vector<float> zeros(2 * kBlock, 0.0f), negative(kBlock, -0.0f);
  for (const std::byte byte : written(zeros)) EXPECT_EQ(byte, std::byte{0});
  EXPECT_EQ(read_back(written(zeros)), zeros);
  for (const std::byte byte : written(negative)) EXPECT_EQ(byte, std::byte{0});
}

TEST(Blocks, RefusesWhatBlocksCannotHold) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 8.4e6f, -1e30f}) {
    for (const size_t at : {size_t{0}, size_t{31}}) {
      std::vector<float> numbers(kBlock, 1.0f);
      numbers[at] = bad;
      EXPECT_THROW(written(numbers), Error) << bad;
    }
  }
  std::vector<float> largest(kBlock, -65504.0f * 127);
  EXPECT_EQ(read_back(written(largest)), largest);
}

// Blocks of others may hold -128, and any scale.
TEST(Blocks, ReadsAnyBytes) {
  std::vector<std::byte> block(kQ8Bytes, std::byte{0x80});
  block[0] = std::byte{0x00};
  block[1] = std::byte{0x3c};
  EXPECT_EQ(read_back(block), std::vector<float>(kBlock, -128.0f));
  block[1] = std::byte{0x7c};
  EXPECT_EQ(read_back(block)[0], -INFINITY);
}

}  // namespace
}  // namespace rookery
