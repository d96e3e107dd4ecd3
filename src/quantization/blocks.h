// Numbers quantised in blocks of 32, in the layouts of rwkv.cpp and GGUF. A block is a float16
// scale d (and, with _1, a float16 least value m), then 32 small integers q; a number is d q, d (q
// - 8) or d (q - 16), or with _1 d q + m. Of packed integers the low nibbles are the elements 0 to
// 15 of a block and the high nibbles 16 to 31; bit j of the four bytes before the nibbles of Q5 is
// the highest bit of element j. Rows are quantised one by one: a block never spans two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rookery {

inline constexpr int64_t kBlock = 32;  // numbers of a block

struct BlockType {
  std::string_view name;  // "Q8_0", as in files
  std::string_view flag;  // "q8_0", as in flags and reports
  int64_t bytes;          // of a block
  void (*read)(const std::byte* block, float* out);
  // Null where nothing is written in this type.
  void (*write)(const float* numbers, std::byte* block);
};

extern const BlockType kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0;

// Bytes of `count` numbers in blocks; `count` is a multiple of kBlock.
constexpr int64_t bytes_in(const BlockType& type, int64_t count) {
  return count / kBlock * type.bytes;
}

// `count` numbers (a multiple of kBlock) from blocks, or into blocks. Bytes need no alignment.
void read_blocks(const BlockType& type, const std::byte* blocks, int64_t count, float* out);
// Q8_0 only: d is the largest magnitude / 127 as a float16, q the nearest of -127 .. 127; so each
// number comes back within d / 2. Numbers from blocks written here give the same blocks again, if
// the largest magnitude is at least 0.001. Throws Error for numbers that are not finite, and for
// those above 8,320,000, whose d no float16 holds.
void write_blocks(const BlockType& type, const float* numbers, int64_t count, std::byte* blocks);

}  // namespace rookery
