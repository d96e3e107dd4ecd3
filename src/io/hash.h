// XXH3, 64 bits (https://xxhash.com): tells apart what was changed by accident. No defence against
// forgery. Hashes are stored in checkpoints and saved states: whoever changes what is computed here
// raises the version of those formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/threads.h"

namespace rookery {

// The hash of `bytes`. Of several pieces: `before` is the hash of those before, the seed of this
// one.
uint64_t hash_bytes(std::string_view bytes, uint64_t before = 0);

// The hash of data of any size, as fast as all threads read it: that of the hashes of its blocks of
// 16 MiB, with the size as the seed. The number of threads does not matter.
uint64_t hash_blocks(std::span<const std::byte> bytes, ThreadPool& pool);

}  // namespace rookery
