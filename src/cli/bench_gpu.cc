// Benches whose work is captured as a graph on a GPU. Times are the GPU's own.

#include "cli/bench.h"
#include "cli/verbs.h"
#include "core/random.h"
#include "benchmarks/machine_limits.h"
#include "ops/wkv4/wkv4.h"

namespace rookery::cli {
namespace {

// Random numbers of one size that repeat through a tensor: to draw billions would take minutes.
class Filler {
 public:
  Filler() {
    Random random(7);
    for (float& x : numbers_) x = static_cast<float>(random.normal());
  }
  void fill(const TensorView& view, double scale, double offset) {
    std::vector<std::byte> block(std::min(view.count(), kNumbers) * size_of(view.dtype));
    for (int64_t i = 0; i < std::min(view.count(), kNumbers); ++i) {
      const auto x = static_cast<float>(numbers_[i] * scale + offset);
      if (view.dtype == DType::kF32) reinterpret_cast<float*>(block.data())[i] = x;
      if (view.dtype == DType::kBF16) {
        reinterpret_cast<BFloat16*>(block.data())[i] = to_bfloat16(x);
      }
    }
    const auto size = static_cast<int64_t>(block.size());
    for (int64_t at = 0; at < view.bytes(); at += size) {
      copy_bytes(static_cast<char*>(view.data) + at, block.data(),
                 std::min(size, view.bytes() - at));
    }
  }

 private:
  // Not a power of two: rows of a matrix differ.
  static constexpr int64_t kNumbers = (int64_t{1} << 20) + 7919;
  std::vector<float> numbers_ = std::vector<float>(kNumbers);
};

// Seconds of one launch of what `work` asks for, as a graph: the median of `rounds`, each the mean
// of `repeats` launches.
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

}  // namespace

Model bench_model_on_gpu(const BenchFlags& f) {
  check(f.dtype != "f16", "--dtype f16 is not possible on a GPU: expected f32 or bf16");
  const ModelConfig config = parse_shape(f.shape);
  Model model = Model::zeros_on_gpu(config, parse_dtype(f.dtype));
  Filler filler;
  for (const Parameter& p : model.parameters()) {
    const bool vector = p.spec.role == Role::kVector;
    const bool norm = vector && p.spec.name.ends_with(".weight");
    const double width = static_cast<double>(p.value.cols());
    filler.fill(p.value, vector ? 0.1 : 1 / std::sqrt(width), norm ? 1 : 0);
  }
  return model;
}

int bench_decode_on_gpu(const BenchFlags& f) {
  const Model model = bench_model_on_gpu(f);
  const int64_t vocabulary = model.config().vocabulary, users = f.batch;
  ThreadPool pool(resolve_threads(*f.threads));
  State state(model.state_layout(), users, DType::kF32, Device::kCuda);
  Arena arena(MemoryKind::kDevice);
  Context ctx;
  ctx.use(Device::kCuda, model.activation_type());
  ctx.pool = &pool;
  ctx.arena = &arena;
  ctx.deterministic = f.deterministic;
  const std::vector<int32_t> tokens = some_tokens(users, vocabulary);
  Batch batch;
  for (int64_t i = 0; i < users; ++i) batch.add(std::span(tokens).subspan(i, 1), i, i);
  const PlacedBatch placed(batch, vocabulary, Device::kCuda);
  std::vector<int64_t> rows(users);
  for (int64_t i = 0; i < users; ++i) rows[i] = i;
  const auto step = [&] {
    arena.reset();
    const Tensor x = model.forward(ctx, placed, {.state_in = &state, .state_out = &state});
    model.logits(ctx, x, rows);
  };
  const double bandwidth = measure_read_rate(pool, f.megabytes << 20, Device::kCuda);
  const double seconds = graph_seconds(f.rounds, f.tokens, step);
  if (f.profile) {
    Profile profile;
    profile.device = Device::kCuda;
    ctx.profile = &profile;
    step();
    print_profile(profile);
  }
  // Every weight but the embedding once, and each state in and out.
  double bytes = static_cast<double>(model.bytes());
  bytes -= static_cast<double>(model.parameter("emb.weight").value.bytes());
  bytes += 2.0 * static_cast<double>(users * state.slot_bytes());
  const double rate = static_cast<double>(users) / seconds;
  Report report = make_report("decode", f, pool.threads(), rate, "read bandwidth",
                              static_cast<double>(users) * bandwidth / bytes);
  report.json["batch"] = users;
  report.json["read_bandwidth"] = bandwidth;
  report.json["bytes_per_step"] = bytes;
  report.json["seconds_per_step"] = seconds;
  report.text +=
      fmt::format("{} sequences, {:.1f} us per step; {:.1f} MB per step at {:.0f} GB/s\n", users,
                  seconds * 1e6, bytes / 1e6, bandwidth / 1e9);
  print(report, f.json);
  return 0;
}

int bench_wkv4_on_gpu(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const int64_t rows = f.context * f.batch, width = parse_shape(f.shape).width;
  Arena arena(MemoryKind::kDevice);
  Tape tape(MemoryKind::kDevice);
  Context ctx;
  ctx.use(Device::kCuda, parse_dtype(f.dtype));
  ctx.pool = &pool;
  ctx.arena = &arena;
  Filler filler;
  const auto random = [&](const Shape& shape, DType dtype, double scale, double offset) {
    const Tensor tensor = ctx.make(shape, dtype);
    filler.fill(tensor, scale, offset);
    return tensor;
  };
  const Tensor w = random({width}, DType::kF32, 0.2, -1), u = random({width}, DType::kF32, 1, 0);
  const Tensor k = random({rows, width}, ctx.dtype, 1, 0),
               v = random({rows, width}, ctx.dtype, 1, 0);
  const TensorView dy = random({rows, width}, ctx.dtype, 1, 0);
  Batch batch;
  const std::vector<int32_t> zeros(f.context, 0);
  for (int64_t i = 0; i < f.batch; ++i) batch.add(zeros, -1, -1);
  const PlacedBatch placed(batch, 1, Device::kCuda);
  const double copy = measure_copy_rate(pool, f.megabytes << 20, Device::kCuda);
  const double forward = graph_seconds(f.rounds, 20, [&] {
    const ArenaScope scope(arena);
    wkv4(ctx, w, u, k, v, placed.sequences(), {});
  });
  // Forward and backward, as training runs them; the forward then keeps states.
  const auto both = [&](bool backward) {
    const ArenaScope scope(arena);
    tape.clear();
    ctx.tape = &tape;
    const Tensor y = wkv4(ctx, w, u, k, v, placed.sequences(), {});
    if (backward) {
      tape.keep_gradient(y, dy, true);
      tape.gradient_out(y);
      tape.run_backward();
    }
    ctx.tape = nullptr;
  };
  const double recorded = graph_seconds(f.rounds, 20, [&] { both(false); });
  const double backward = graph_seconds(f.rounds, 20, [&] { both(true); }) - recorded;
  const double elements = static_cast<double>(rows * width);
  const double size = static_cast<double>(size_of(ctx.dtype));
  // k and v read, y written; k, v and dy read, their gradients written.
  const double forward_bytes = 3 * size * elements, backward_bytes = 5 * size * elements;
  const double tokens = static_cast<double>(rows);
  Report report = make_report("wkv4", f, pool.threads(), tokens / forward, "copy bandwidth",
                              tokens * copy / forward_bytes);
  report.json["context"] = f.context;
  report.json["batch"] = f.batch;
  report.json["copy_bandwidth"] = copy;
  report.json["forward_ms"] = forward * 1e3;
  report.json["recording_ms"] = recorded * 1e3;
  report.json["backward_ms"] = backward * 1e3;
  report.json["backward_fraction"] = backward_bytes / backward / copy;
  report.text = fmt::format(
      "wkv4 ({}, {}, {}) {} {}   forward {:.1f} us, {:.1f} % of the copy bandwidth ({:.0f} GB/s); "
      "keeping states {:.1f} us; backward {:.1f} us, {:.1f} %\n",
      f.batch, f.context, width, f.dtype, describe(f.device), forward * 1e6,
      100 * forward_bytes / forward / copy, copy / 1e9, recorded * 1e6, backward * 1e6,
      100 * backward_bytes / backward / copy);
  print(report, f.json);
  return 0;
}

}  // namespace rookery::cli
