#include "benchmarks/jobs.h"

#include <numeric>
#include <span>
#include <vector>

#include "benchmarks/graph_seconds.h"
#include "benchmarks/machine_limits.h"
#include "benchmarks/random_model.h"
#include "core/cpu_info.h"
#include "core/timing.h"
#include "inference/runner.h"
#include "inference/session.h"
#include "training/trainer.h"

namespace rookery {
namespace {

// Steps between two measurements of the bandwidth: the machine's speed changes within seconds.
constexpr int64_t kTurn = 20;

double bytes_per_step(const Model& model, int64_t batch) {
  return static_cast<double>(model.bytes() - model.parameter("emb.weight").value.bytes()) +
         2.0 * static_cast<double>(batch * model.state_layout().slot_size * size_of(DType::kF32));
}

DecodeResult bounded_by_reading(double seconds_per_step, double bandwidth, double bytes,
                                int64_t batch) {
  const auto tokens = static_cast<double>(batch);
  DecodeResult result;
  result.tokens = {tokens / seconds_per_step, tokens * bandwidth / bytes};
  result.read_bandwidth = bandwidth;
  result.bytes_per_step = bytes;
  result.seconds_per_step = seconds_per_step;
  return result;
}

DecodeResult decode_on_gpu(const DecodeJob& job, ThreadPool& pool) {
  const Model model = random_model(job.config, job.weights, job.device, pool);
  const std::vector<int32_t> tokens = random_tokens(job.batch, model.config().vocabulary);
  Batch batch;
  for (int64_t i = 0; i < job.batch; ++i) batch.add(std::span(tokens).subspan(i, 1), i, i);
  batch.wanted.resize(job.batch);
  std::iota(batch.wanted.begin(), batch.wanted.end(), 0);
  ModelRunner runner(model, pool, job.batch, job.deterministic);
  for (int i = 0; i < 2; ++i) runner.forward(batch);  // kernel by kernel; recorded
  const double bandwidth = measure_read_rate(pool, job.bandwidth_bytes, job.device);
  Context& ctx = runner.context();
  const double seconds =
      launch_seconds(*ctx.stream, job.rounds, job.tokens, [&] { runner.repeat(); });
  if (job.profile != nullptr) {
    ctx.profile = job.profile;
    runner.repeat();
  }
  return bounded_by_reading(seconds, bandwidth, bytes_per_step(model, job.batch), job.batch);
}

}  // namespace

DecodeResult measure_decode(const DecodeJob& job, ThreadPool& pool) {
  if (job.device == Device::kCuda) return decode_on_gpu(job, pool);
  check(job.batch == 1) || fail(
                               "decoding several sequences at once is measured on a GPU only: "
                               "--batch 1, or --device cuda");
  const Model model = random_model(job.config, job.weights, job.device, pool);
  Session session(model, pool, job.deterministic);
  const std::vector<int32_t> tokens = random_tokens(job.tokens + 10, model.config().vocabulary);
  size_t next = 0;
  while (next < 10) session.feed(tokens[next++]);
  if (job.profile != nullptr) session.context().profile = job.profile;
  measure_read_rate(pool, job.bandwidth_bytes);
  std::vector<double> read, times;
  const long long memory_before = process_memory().resident;
  for (int64_t t = 0; t < job.tokens; ++t) {
    if (t % kTurn == 0) {
      if (job.go_on && !job.go_on(t)) break;
      read.push_back(measure_read_rate(pool, job.bandwidth_bytes));
    }
    const Stopwatch watch;
    session.feed(tokens[next++ % tokens.size()]);
    times.push_back(watch.seconds());
  }
  check(!times.empty()) || fail("interrupted before the first token");
  DecodeResult result =
      bounded_by_reading(median(times), median(read), bytes_per_step(model, 1), 1);
  DecodeResult::Ageing& ageing = result.ageing.emplace();
  ageing.steps = static_cast<int64_t>(times.size());
  ageing.memory_growth = process_memory().resident - memory_before;
  // The tokens around a new text's 100th and those after the last one, twenty of each in turns.
  Session fresh(model, pool, job.deterministic);
  for (int64_t t = 0; t < 50; ++t) fresh.feed(tokens[t % tokens.size()]);
  std::vector<double> early, late;
  for (int turn = 0; turn < 10; ++turn) {
    const bool old = turn % 2 == 1;
    for (int64_t t = 0; t < kTurn; ++t) {
      const Stopwatch watch;
      (old ? session : fresh).feed(tokens[next++ % tokens.size()]);
      (old ? late : early).push_back(watch.seconds());
    }
  }
  ageing.early_rate = 1 / median(early);
  ageing.late_rate = 1 / median(late);
  return result;
}

namespace {

// Runs `work`, on so many tokens, and measurements of the matmul rate in turns.
template <class Work>
MatmulBound in_turns(ThreadPool& pool, DType products, Device device, int64_t rounds,
                     int64_t tokens, double flops_per_token, const Work& work) {
  std::vector<double> times, rates;
  for (int64_t i = 0; i < rounds; ++i) {
    rates.push_back(measure_product_rate(pool, products, 5, device));
    const Stopwatch watch;
    work();
    times.push_back(watch.seconds());
  }
  MatmulBound result;
  result.products = products;
  result.seconds = median(times);
  result.matmul_rate = median(rates);
  result.flops_per_token = flops_per_token;
  result.tokens = {static_cast<double>(tokens) / result.seconds,
                   result.matmul_rate / flops_per_token};
  return result;
}

}  // namespace

MatmulBound measure_prefill(const PrefillJob& job, ThreadPool& pool) {
  const Model model = random_model(job.config, job.weights, job.device, pool);
  Session session(model, pool, job.deterministic);
  const std::vector<int32_t> tokens = random_tokens(job.context, model.config().vocabulary);
  session.feed(tokens);
  if (job.profile != nullptr) {
    session.context().profile = job.profile;
  }
  // The head is asked for one row only.
  const double head = 2.0 * static_cast<double>(model.config().vocabulary * model.config().width);
  const double flops =
      forward_flops_per_token(model) - head + head / static_cast<double>(job.context);
  const DType products = job.weights == DType::kBF16 ? DType::kBF16 : DType::kF32;
  return in_turns(pool, products, job.device, job.rounds, job.context, flops,
                  [&] { session.feed(tokens); });
}

MatmulBound measure_training(const TrainingJob& job, ThreadPool& pool) {
  TrainOptions options;
  options.context = job.context;
  options.batch = job.batch;
  options.products = job.products;
  options.gradient_checkpointing = job.gradient_checkpointing;
  options.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-5, .total_steps = 1000};
  Trainer trainer(Model::initialised(job.config, {.scheme = "random"}, pool), options, pool,
                  job.device);
  const int64_t tokens = options.tokens_per_step();
  TrainingBatch batch{random_tokens(tokens, job.config.vocabulary),
                      random_tokens(tokens, job.config.vocabulary),
                      {0}};
  for (int64_t i = 1; i <= job.batch; ++i) batch.offsets.push_back(i * job.context);
  const auto step = [&] { trainer.step(std::span(&batch, 1)); };
  // Touches the memory; a GPU records its graph in the second step.
  for (int i = 0; i < (job.device == Device::kCuda ? 3 : 1); ++i) step();
  if (job.profile != nullptr) {
    trainer.context().profile = job.profile;
  }
  // Three products of the forward's size: the forward, the gradient of the input, that of the
  // weight.
  return in_turns(pool, options.products, job.device, job.rounds, tokens,
                  3 * forward_flops_per_token(trainer.model()), step);
}

}  // namespace rookery
