// Time of work that a GPU runs as a captured graph, by the GPU's own clock.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuda/captured.h"
#include "core/timing.h"

namespace rookery {

// Seconds of `launch`, which asks this stream for work without waiting: the median of `rounds`,
// each the mean of `repeats` launches. Kernels and graphs must have been loaded.
template <class Launch>
double launch_seconds(const cuda::Stream& stream, int64_t rounds, int64_t repeats, Launch launch) {
  cuda::Timer timer(stream);
  std::vector<double> seconds;
  for (int64_t i = 0; i < rounds; ++i) {
    timer.start();
    for (int64_t r = 0; r < repeats; ++r) launch();
    seconds.push_back(timer.stop() / 1e3 / static_cast<double>(repeats));
  }
  return median(seconds);
}

// The same of `work`, captured.
template <class Work>
double graph_seconds(Context& ctx, int64_t rounds, int64_t repeats, Work work) {
  cuda::Captured captured;
  for (int i = 0; i < 2; ++i) captured.run(ctx, work);  // kernel by kernel; recorded
  return launch_seconds(*ctx.stream, rounds, repeats, [&] { captured.run(ctx, work); });
}

}  // namespace rookery
