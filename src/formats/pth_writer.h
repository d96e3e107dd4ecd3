// Writes what torch.save writes for a state dictionary: a ZIP archive of stored members, a pickle
// that names the tensors and a member with the numbers of each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "formats/tensor_writer.h"

namespace rookery {

// From here on a number of the archive stands in the ZIP64 fields. Every reader of ZIP64 takes
// smaller limits, too: tests use them, as no test writes 4 GiB.
struct ZipLimits {
  int64_t bytes = 0xffffffff;  // sizes and offsets
  int64_t members = 0xffff;
};

// Writes the tensors (kF32, kF16, kBF16) to `path`, all or nothing, in this order, as a plain
// dictionary that PyTorch 1.6 and newer load, also with weights_only. The numbers of each start at
// a multiple of 64 bytes. Throws Error if the file cannot be written, or if a name is empty, no
// printable ASCII or occurs twice.
void write_pth(const std::filesystem::path& path, std::span<const StoredTensor> tensors,
               const WriteProgress& progress = {}, const ZipLimits& limits = {});

}  // namespace rookery
