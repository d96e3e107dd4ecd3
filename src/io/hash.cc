#include "io/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <vector>

namespace rookery {

uint64_t hash_bytes(std::string_view bytes, uint64_t before) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), before);
}

uint64_t hash_blocks(std::span<const std::byte> bytes, ThreadPool& pool) {
  constexpr size_t kBlock = size_t{16} << 20;
  std::vector<uint64_t> hashes((bytes.size() + kBlock - 1) / kBlock);
  pool.run(static_cast<int64_t>(hashes.size()), [&](int64_t block, int) {
    const size_t begin = static_cast<size_t>(block) * kBlock;
    const size_t size = std::min(kBlock, bytes.size() - begin);
    hashes[static_cast<size_t>(block)] = XXH3_64bits(bytes.data() + begin, size);
  });
  return XXH3_64bits_withSeed(hashes.data(), hashes.size() * sizeof(uint64_t), bytes.size());
}

}  // namespace rookery
