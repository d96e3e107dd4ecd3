// Time of work that a GPU runs as a captured graph, by the GPU's own clock.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuda/runtime.h"
#include "core/timing.h"

namespace rookery {

// Seconds of one launch of what `work` asks for: the median of `rounds`, each the mean of `repeats`
// launches.
template <class Work>
double graph_seconds(int64_t rounds, int64_t repeats, Work work) {
  work();  // opens libraries and gets memory
  cuda::synchronize();
  cuda::Graph graph;
  graph.begin();
  work();
  graph.end();
  graph.launch();
  cuda::Timer timer;
  std::vector<double> seconds;
  for (int64_t i = 0; i < rounds; ++i) {
    timer.start();
    for (int64_t r = 0; r < repeats; ++r) graph.launch();
    seconds.push_back(timer.stop() / 1e3 / static_cast<double>(repeats));
  }
  return median(seconds);
}

}  // namespace rookery
