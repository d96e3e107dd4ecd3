#include "io/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rookery {
namespace {

// The bytes that xxHash's own tests use.
std::string test_bytes(size_t count) {
  std::string bytes(count, '\0');
  uint64_t state = 2654435761u;
  for (char& byte : bytes) {
    byte = static_cast<char>(state >> 56);
    state *= 11400714785074694797ull;
  }
  return bytes;
}

std::span<const std::byte> as_span(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Known answers of xxHash 0.8 (XSUM_XXH3_testdata), of every range of lengths that it treats in its
// own way.
TEST(Hash, IsXxh3) {
  constexpr uint64_t kSeed = 11400714785074694797ull;
  const struct {
    size_t size;
    uint64_t seed, hash;
  } kKnown[] = {
      {0, 0, 0x2D06800538D394C2},    {0, kSeed, 0xA8A6B918B2F0364A},
      {1, 0, 0xC44BDFF4074EECDB},    {1, kSeed, 0x032BE332DD766EF8},
      {6, 0, 0x27B56A84CD2D7325},    {6, kSeed, 0x84589C116AB59AB9},
      {12, 0, 0xA713DAF0DFBB77E7},   {12, kSeed, 0xE7303E1B2336DE0E},
      {24, 0, 0xA3FE70BF9D3510EB},   {24, kSeed, 0x850E80FC35BDD690},
      {48, 0, 0x397DA259ECBA1F11},   {48, kSeed, 0xADC2CBAA44ACC616},
      {80, 0, 0xBCDEFBBB2C47C90A},   {80, kSeed, 0xC6DD0CB699532E73},
      {195, 0, 0xCD94217EE362EC3A},  {195, kSeed, 0xBA68003D370CB3D9},
      {403, 0, 0xCDEB804D65C6DEA4},  {403, kSeed, 0x6259F6ECFD6443FD},
      {512, 0, 0x617E49599013CB6B},  {512, kSeed, 0x3CE457DE14C27708},
      {2048, 0, 0xDD59E2C3A5F038E0}, {2048, kSeed, 0x66F81670669ABABC},
      {2240, 0, 0x6E73A90539CF2948}, {2240, kSeed, 0x757BA8487D1B5247},
      {2367, 0, 0xCB37AEB9E5D361ED}, {2367, kSeed, 0xD2DB3415B942B42A},
  };
  for (const auto& known : kKnown) {
    EXPECT_EQ(hash_bytes(test_bytes(known.size), known.seed), known.hash)
        << known.size << " bytes, seed " << known.seed;
  }
}

TEST(Hash, OfBlocksKnowsEveryByteAndTheSize) {
  constexpr size_t kBlock = size_t{16} << 20;
  ThreadPool one(1), three(3);
  // By hand: two whole blocks and a part of one.
  std::string bytes = test_bytes(2 * kBlock + 100);
  const std::string_view all = bytes;
  const uint64_t blocks[] = {hash_bytes(all.substr(0, kBlock)),
                             hash_bytes(all.substr(kBlock, kBlock)),
                             hash_bytes(all.substr(2 * kBlock))};
  const uint64_t expected =
      hash_bytes({reinterpret_cast<const char*>(blocks), sizeof blocks}, bytes.size());
  EXPECT_EQ(hash_blocks(as_span(bytes), one), expected);
  EXPECT_EQ(hash_blocks(as_span(bytes), three), expected);
  for (const size_t at : {size_t{0}, kBlock - 1, kBlock, 2 * kBlock + 99}) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    EXPECT_NE(hash_blocks(as_span(bytes), three), expected) << at;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
  }
  EXPECT_NE(hash_blocks(as_span(bytes.substr(0, bytes.size() - 1)), three), expected);
  EXPECT_NE(hash_blocks({}, three), hash_blocks(as_span(std::string(1, '\0')), three));
}

}  // namespace
}  // namespace rookery
