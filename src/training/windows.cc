#include "training/windows.h"

#include <vector>

#include "io/file.h"

namespace rookery {

std::optional<WrittenWindows> write_windows(const std::filesystem::path& path, const RunData& data,
                                            const TrainOptions& options,
                                            const std::function<bool(int64_t steps)>& progress) {
  validate(options);
  check(data.training().mask.empty()) ||
      fail("the data has a mask, and windows are tokens only: prepare it without one (--no-mask)");
  // Any id that fits into the file: which model will read it is not known.
  const Loader loader = data.loader(options, int64_t{1} << 31);
  AtomicFile file(path);
  for (int64_t step = 0; step < options.schedule.total_steps; ++step) {
    if (!progress(step)) return std::nullopt;
    const TrainingBatch batch = batches_of_step(loader, options, step).front();
    std::vector<int32_t> rows;
    for (size_t i = 1; i < batch.offsets.size(); ++i) {
      const auto end = batch.tokens.begin() + batch.offsets[i];
      rows.insert(rows.end(), end - options.context, end);
      rows.push_back(batch.targets[static_cast<size_t>(batch.offsets[i] - 1)]);
    }
    file.write(rows.data(), static_cast<int64_t>(rows.size() * sizeof(int32_t)));
  }
  const int64_t bytes = file.size();
  file.commit();
  return WrittenWindows{bytes, loader.windows_per_epoch(), loader.magic_prime()};
}

}  // namespace rookery
