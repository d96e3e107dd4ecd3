#include "benchmarks/operators.h"

#include <vector>

#include "benchmarks/graph_seconds.h"
#include "benchmarks/machine_limits.h"
#include "benchmarks/random_model.h"
#include "core/timing.h"
#include "models/model.h"
#include "ops/wkv4/wkv4.h"

namespace rookery {

Wkv4Result measure_wkv4(const Wkv4Job& job, ThreadPool& pool) {
  const bool on_gpu = job.device == Device::kCuda;
  const int64_t rows = job.context * job.batch;
  Arena arena(memory_of(job.device));
  Tape tape(memory_of(job.device));
  Context ctx;
  ctx.use(job.device, on_gpu ? job.activations : DType::kF32);
  ctx.pool = &pool;
  ctx.arena = &arena;
  ctx.deterministic = job.deterministic;
  const RandomFiller filler;
  const auto random = [&](const Shape& shape, DType dtype, double scale, double offset) {
    const Tensor tensor = ctx.make(shape, dtype);
    filler.fill(tensor, scale, offset);
    return tensor;
  };
  const Tensor w = random({job.width}, DType::kF32, 0.2, -1);
  const Tensor u = random({job.width}, DType::kF32, 1, 0);
  const Tensor k = random({rows, job.width}, ctx.dtype, 1, 0);
  const Tensor v = random({rows, job.width}, ctx.dtype, 1, 0);
  Batch batch;
  const std::vector<int32_t> zeros(static_cast<size_t>(job.context), 0);
  for (int64_t i = 0; i < job.batch; ++i) batch.add(zeros, -1, -1);
  const PlacedBatch placed(batch, 1, ctx);
  const auto forward = [&] { return wkv4(ctx, w, u, k, v, placed.sequences(), {}); };

  Wkv4Result result;
  // k and v are read and y is written, each once.
  const double tensor_bytes = static_cast<double>(rows * job.width * size_of(ctx.dtype));
  const double forward_bytes = 3 * tensor_bytes;
  if (on_gpu) {
    const TensorView dy = random({rows, job.width}, ctx.dtype, 1, 0);
    result.copy_bandwidth = measure_copy_rate(pool, job.bandwidth_bytes, job.device);
    constexpr int64_t kRepeats = 20;
    result.forward_seconds = graph_seconds(ctx, job.rounds, kRepeats, [&] {
      const ArenaScope scope(arena);
      forward();
    });
    const auto recorded = [&](bool backward) {
      const ArenaScope scope(arena);
      tape.clear();
      ctx.tape = &tape;
      const Tensor y = forward();
      if (backward) {
        tape.keep_gradient(y, dy, true);
        tape.gradient_out(y);
        tape.run_backward();
      }
      ctx.tape = nullptr;
    };
    Wkv4Result::Training& training = result.training.emplace();
    training.forward_seconds = graph_seconds(ctx, job.rounds, kRepeats, [&] { recorded(false); });
    training.backward_seconds = graph_seconds(ctx, job.rounds, kRepeats, [&] { recorded(true); }) -
                                training.forward_seconds;
    // k, v and dy are read, the gradients of k and v are written.
    training.backward_fraction =
        5 * tensor_bytes / training.backward_seconds / result.copy_bandwidth;
  } else {
    std::vector<double> times, copy;
    for (int64_t i = 0; i < 5 * job.rounds + 1; ++i) {
      copy.push_back(measure_copy_rate(pool, job.bandwidth_bytes));
      const ArenaScope scope(arena);
      const Stopwatch watch;
      forward();
      times.push_back(watch.seconds());
    }
    result.copy_bandwidth = median(copy);
    result.forward_seconds = median(times);
  }
  const auto tokens = static_cast<double>(rows);
  result.tokens = {tokens / result.forward_seconds, tokens * result.copy_bandwidth / forward_bytes};
  return result;
}

}  // namespace rookery
