// Time of work that a GPU runs as a captured graph, by the GPU's own clock.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuda/captured.h"
#include "core/timing.h"

namespace rookery {

// Seconds of one launch of what `work` asks `ctx` for: the median of `rounds`, each the mean of
// `repeats` launches.
template <class Work>
double graph_seconds(Context& ctx, int64_t rounds, int64_t repeats, Work work) {
  cuda::Captured captured;
  for (int i = 0; i < 2; ++i) captured.run(ctx, work);  // kernel by kernel; recorded
  cuda::Timer timer(*ctx.stream);
  std::vector<double> seconds;
  for (int64_t i = 0; i < rounds; ++i) {
    timer.start();
    for (int64_t r = 0; r < repeats; ++r) captured.run(ctx, work);
    seconds.push_back(timer.stop() / 1e3 / static_cast<double>(repeats));
  }
  return median(seconds);
}

}  // namespace rookery
