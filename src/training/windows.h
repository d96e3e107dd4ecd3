// The windows that a training run reads, as a file: another program may learn from the same.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "training/run_data.h"

namespace rookery {

struct WrittenWindows {
  int64_t bytes = 0;
  int64_t windows_per_epoch = 0;
  int64_t magic_prime = 0;  // 0 for another order
};

// Writes what the steps of a run with these options read, options.schedule.total_steps of them and
// of one micro-batch each: little-endian 32-bit integers, [steps][batch][context + 1]. The inputs
// of a window are all of a row but the last, its targets all but the first. `progress` hears of
// every step; if it returns false nothing is written, and there is no result. Throws Error for data
// with a mask.
std::optional<WrittenWindows> write_windows(const std::filesystem::path& path, const RunData& data,
                                            const TrainOptions& options,
                                            const std::function<bool(int64_t steps)>& progress);

}  // namespace rookery
