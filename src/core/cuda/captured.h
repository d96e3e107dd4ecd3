// Work that repeats with the same launches at the same addresses. On a GPU its first run goes
// kernel by kernel: it gets memory, loads kernels and opens libraries, which a recording may not
// do. The second run is recorded as a CUDA graph, and from then on that graph is launched: one
// launch in place of hundreds.
#pragma once

#include <memory>

#include "core/context.h"

namespace rookery::cuda {

class Captured {
 public:
  Captured();
  ~Captured();
  Captured(Captured&&) noexcept;
  Captured& operator=(Captured&&) noexcept;

  // Runs work(), which asks `ctx` for everything it does, or launches the graph of it. Without a
  // GPU, or when a checker or a profile wants to see every operator, it is work() each time.
  template <class Work>
  void run(Context& ctx, Work&& work) {
    if (ctx.device != rookery::Device::kCuda || ctx.checker != nullptr || ctx.profile != nullptr) {
      return work();
    }
    if (!ran_) {
      work();
      ran_ = true;
      return;
    }
    if (graph_ == nullptr) {
      begin(*ctx.stream);
      try {
        work();
      } catch (...) {
        abandon(*ctx.stream);
        throw;
      }
      end(*ctx.stream);
    }
    launch(*ctx.stream);
  }
  // Shapes or addresses have changed: the next run goes kernel by kernel again.
  void reset();

 private:
  struct Graph;
  void begin(const Stream& stream);
  void end(const Stream& stream);
  // Gives up a recording that failed half-way.
  void abandon(const Stream& stream) noexcept;
  void launch(const Stream& stream);

  bool ran_ = false;
  std::unique_ptr<Graph> graph_;
};

}  // namespace rookery::cuda
