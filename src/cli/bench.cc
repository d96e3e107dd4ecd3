// rookery bench: what this machine can do, and what share of it each job reaches. Bound and rate
// are measured in turns within one run, because a machine's speed changes from minute to minute.

#include <chrono>
#include <cstdio>

#include "cli/bench.h"
#include "reporting/progress.h"
#include "cli/verbs.h"
#include "core/cpu_info.h"
#include "io/file.h"
#include "core/random.h"
#include "inference/session.h"
#include "benchmarks/machine_limits.h"
#include "ops/linear/product_cpu.h"
#include "ops/wkv4/wkv4.h"
#include "training/trainer.h"

namespace rookery::cli {

Report make_report(const std::string& name, const BenchFlags& f, int threads, double rate,
                   const std::string& bound, double bound_rate) {
  Report report;
  report.json = {{"name", name},
                 {"shape", f.shape},
                 {"dtype", f.dtype},
                 {"threads", threads},
                 {"rate", rate},
                 {"bound", bound},
                 {"bound_rate", bound_rate},
                 {"fraction", rate / bound_rate},
                 {"device", describe(f.device)},
                 {"cpu", cpu_info().name}};
  const std::string where =
      f.device == Device::kCuda ? describe(f.device) : fmt::format("{} threads", threads);
  report.text =
      fmt::format("{} {} {} {}   {:.1f} tokens/s   {:.1f} % of the {} ({:.1f} tokens/s)\n", name,
                  f.shape, f.dtype, where, rate, 100 * rate / bound_rate, bound, bound_rate);
  return report;
}

void print(const Report& report, bool json) {
  std::fputs(json ? (report.json.dump() + "\n").c_str() : report.text.c_str(), stdout);
}

void print_profile(const Profile& profile) {
  std::vector<std::pair<double, std::string>> entries;
  double total = 0;
  for (const auto& [name, entry] : profile.entries) {
    entries.emplace_back(entry.seconds, fmt::format("{:28} {:8} calls {:9.3f} ms\n", name,
                                                    entry.calls, 1e3 * entry.seconds));
    total += entry.seconds;
  }
  std::sort(entries.rbegin(), entries.rend());
  for (const auto& [seconds, line] : entries)
    fmt::print(stderr, "{:5.1f} %  {}", 100 * seconds / total, line);
}

std::vector<int32_t> some_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens(count);
  Random random(7);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A dense model whose matrices products read as --dtype.
Model bench_model(const BenchFlags& f, ThreadPool& pool) {
  if (f.device == Device::kCuda) return bench_model_on_gpu(f);
  Model model = Model::initialised(parse_shape(f.shape), {.scheme = "random"}, pool);
  if (f.dtype == "f32") return model;
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : model.parameters()) tensors.push_back(stored_tensor(p));
  return model_from_tensors(tensors, matrix_type(parse_dtype(f.dtype)));
}

int bench_limits(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  std::vector<double> read, copy, f32, bf16;
  const int64_t bytes = f.megabytes << 20;
  measure_copy_rate(pool, bytes, f.device);  // touches the memory
  for (int64_t i = 0; i < 2 * f.rounds + 1; ++i) {
    read.push_back(measure_read_rate(pool, bytes, f.device));
    copy.push_back(measure_copy_rate(pool, bytes, f.device));
    f32.push_back(measure_product_rate(pool, DType::kF32, 3, f.device));
    bf16.push_back(measure_product_rate(pool, DType::kBF16, 3, f.device));
  }
  Report report;
  report.json = {{"name", "limits"},
                 {"shape", fmt::format("{} MiB, products of {}", f.megabytes,
                                       f.device == Device::kCuda ? 8192 : 2048)},
                 {"device", describe(f.device)},
                 {"dtype", "f32, bf16"},
                 {"threads", pool.threads()},
                 {"rate", median(read)},
                 {"bound", "bytes/s and FLOP/s of this machine"},
                 {"bound_rate", median(read)},
                 {"fraction", 1.0},
                 {"cpu", cpu_info().name},
                 {"bf16_instructions", cpu_info().bf16_products},
                 {"amx", cpu_info().amx_bf16},
                 {"read_bandwidth", median(read)},
                 {"copy_bandwidth", median(copy)},
                 {"f32_matrix_rate", median(f32)},
                 {"bf16_matrix_rate", median(bf16)}};
  report.text = fmt::format(
      "{}\n{} threads, medians of {}\n"
      "read            {:8.1f} GB/s   ({} MiB)\n"
      "copy            {:8.1f} GB/s   (read and written together)\n"
      "float32 matrix  {:8.1f} GFLOP/s\n"
      "bfloat16 matrix {:8.1f} GFLOP/s{}\n",
      describe(f.device), pool.threads(), read.size(), median(read) / 1e9, f.megabytes,
      median(copy) / 1e9, median(f32) / 1e9, median(bf16) / 1e9,
      f.device == Device::kCuda  ? " (the library's)"
      : cpu_info().amx_bf16      ? " (AMX)"
      : cpu_info().bf16_products ? " (AVX512-BF16)"
                                 : " (no instructions for it: by our own tiles)");
  print(report, f.json);
  return 0;
}

int bench_decode(const BenchFlags& f) {
  if (f.device == Device::kCuda) return bench_decode_on_gpu(f);
  check(f.batch == 1, "decoding several sequences at once is measured on a GPU only: --batch 1");
  ThreadPool pool(resolve_threads(*f.threads));
  const Model model = bench_model(f, pool);
  // Per token: every weight but the embedding, one row of it, and the state in and out.
  double bytes = static_cast<double>(model.bytes());
  bytes -= static_cast<double>(model.parameter("emb.weight").value.bytes());
  bytes += 2.0 * static_cast<double>(model.state_layout()->slot_size * 4);
  Session session(model, pool, f.deterministic);
  Profile profile;
  const std::vector<int32_t> tokens = some_tokens(f.tokens + 10, model.config().vocabulary);
  int64_t next = 0;
  for (; next < 10; ++next) session.feed(tokens[next]);
  if (f.profile) session.context().profile = &profile;
  // Twenty tokens and one measurement of the bandwidth in turns: the machine's speed changes within
  // seconds.
  const int64_t read_bytes = f.megabytes << 20;
  measure_read_rate(pool, read_bytes);
  std::vector<double> read, times;
  const long long memory_before = process_memory().resident;
  Progress progress(stderr, {.title = "decode", .total = f.tokens});
  for (int64_t t = 0; t < f.tokens && !stop_requested(); ++t) {
    if (t % 20 == 0) {
      read.push_back(measure_read_rate(pool, read_bytes));
      progress.update(t);
    }
    const auto start = Clock::now();
    session.feed(tokens[next++ % tokens.size()]);
    times.push_back(seconds_since(start));
  }
  progress.finish();
  const long long growth = process_memory().resident - memory_before;
  const double rate = 1 / median(times), bandwidth = median(read);
  // Whether a token late in a text costs more: the tokens around a new text's 100th and those after
  // the last one, twenty of each in turns.
  Session fresh(model, pool, f.deterministic);
  for (int64_t t = 0; t < 50; ++t) fresh.feed(tokens[t % tokens.size()]);
  std::vector<double> early, late;
  for (int turn = 0; turn < 10; ++turn) {
    const bool old = turn % 2 == 1;
    for (int64_t t = 0; t < 20; ++t) {
      const auto start = Clock::now();
      (old ? session : fresh).feed(tokens[next++ % tokens.size()]);
      (old ? late : early).push_back(seconds_since(start));
    }
  }
  const double first_rate = 1 / median(early), last_rate = 1 / median(late);
  Report report =
      make_report("decode", f, pool.threads(), rate, "read bandwidth", bandwidth / bytes);
  report.json["read_bandwidth"] = bandwidth;
  report.json["bytes_per_token"] = bytes;
  report.json["tokens"] = times.size();
  report.json["first_rate"] = first_rate;
  report.json["last_rate"] = last_rate;
  report.json["memory_growth"] = growth;
  report.text += fmt::format(
      "{:.0f} MB per token at {:.1f} GB/s; in turns, around the 100th token {:.1f}/s and after the "
      "{}th "
      "{:.1f}/s; memory grew by {}\n",
      bytes / 1e6, bandwidth / 1e9, first_rate, times.size(), last_rate,
      format_bytes(static_cast<double>(growth)));
  if (f.profile) print_profile(profile);
  print(report, f.json);
  return 0;
}

// Runs `work` and a measurement of the product rate in turns; fills the medians.
template <class Work>
void in_turns(ThreadPool& pool, DType dtype, Device device, int64_t rounds, const Work& work,
              double& seconds, double& matrix_rate) {
  std::vector<double> times, rates;
  for (int64_t i = 0; i < rounds; ++i) {
    rates.push_back(measure_product_rate(pool, dtype, 5, device));
    const auto start = Clock::now();
    work();
    times.push_back(seconds_since(start));
  }
  seconds = median(times);
  matrix_rate = median(rates);
}

int bench_train(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  TrainOptions options;
  options.context = f.context;
  options.batch = f.batch;
  options.products = parse_dtype(f.dtype);
  options.gradient_checkpointing = f.checkpointing;
  options.schedule = {.kind = ScheduleKind::kConstant, .rate = 1e-5, .total_steps = 1000};
  const ModelConfig config = parse_shape(f.shape);
  Trainer trainer(Model::initialised(config, {.scheme = "random"}, pool), options, pool, f.device);
  TrainingBatch batch{some_tokens(f.context * f.batch, config.vocabulary),
                      some_tokens(f.context * f.batch, config.vocabulary),
                      {0}};
  for (int64_t i = 1; i <= f.batch; ++i) batch.offsets.push_back(i * f.context);
  // Touches the memory; a GPU records its graph in the second step.
  for (int i = 0; i < (f.device == Device::kCuda ? 3 : 1); ++i) trainer.step(std::span(&batch, 1));
  Profile profile;
  profile.device = f.device;
  if (f.profile) trainer.context().profile = &profile;
  double seconds = 0, matrix_rate = 0;
  in_turns(
      pool, options.products, f.device, f.rounds, [&] { trainer.step(std::span(&batch, 1)); },
      seconds, matrix_rate);
  // Three products of the forward's size: the forward, the gradient of the input, that of the
  // weight. With checkpointing the second forward is not counted: it is a cost, not work asked for.
  const double flops = 3 * forward_flops_per_token(trainer.model());
  const double tokens = static_cast<double>(f.context * f.batch);
  Report report = make_report("train", f, pool.threads(), tokens / seconds,
                              f.dtype + " matrix rate", matrix_rate / flops);
  report.json["context"] = f.context;
  report.json["batch"] = f.batch;
  report.json["matrix_rate"] = matrix_rate;
  report.json["flops_per_token"] = flops;
  report.json["seconds_per_step"] = seconds;
  report.json["peak_memory"] = process_memory().peak;
  report.text +=
      fmt::format("{} x {} tokens, {:.2f} s per step, {:.0f} of {:.0f} GFLOP/s, peak memory {}\n",
                  f.batch, f.context, seconds, flops * tokens / seconds / 1e9, matrix_rate / 1e9,
                  format_bytes(static_cast<double>(process_memory().peak)));
  if (f.profile) print_profile(profile);
  print(report, f.json);
  return 0;
}

int bench_prefill(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const Model model = bench_model(f, pool);
  const DType dtype = f.dtype == "bf16" ? DType::kBF16 : DType::kF32;  // f16 computes in float32
  Session session(model, pool, f.deterministic);
  const std::vector<int32_t> tokens = some_tokens(f.context, model.config().vocabulary);
  session.feed(tokens);
  Profile profile;
  profile.device = f.device;
  if (f.profile) session.context().profile = &profile;
  double seconds = 0, matrix_rate = 0;
  in_turns(
      pool, dtype, f.device, f.rounds, [&] { session.feed(tokens); }, seconds, matrix_rate);
  // The head is asked for one row only.
  const double head = 2.0 * static_cast<double>(model.config().vocabulary * model.config().width);
  const double flops =
      forward_flops_per_token(model) - head + head / static_cast<double>(f.context);
  const double rate = static_cast<double>(f.context) / seconds;
  Report report = make_report("prefill", f, pool.threads(), rate,
                              std::string(name_of(dtype)) + " matrix rate", matrix_rate / flops);
  report.json["context"] = f.context;
  report.json["matrix_rate"] = matrix_rate;
  report.json["flops_per_token"] = flops;
  report.text += fmt::format("{} tokens in {:.3f} s, {:.0f} of {:.0f} GFLOP/s\n", f.context,
                             seconds, flops * rate / 1e9, matrix_rate / 1e9);
  if (f.profile) print_profile(profile);
  print(report, f.json);
  return 0;
}

// One long sequence of WKV-4, which is parallel over time: every core has work.
int bench_wkv4(const BenchFlags& f) {
  if (f.device == Device::kCuda) return bench_wkv4_on_gpu(f);
  ThreadPool pool(resolve_threads(*f.threads));
  Arena arena;
  Context ctx;
  ctx.pool = &pool;
  ctx.arena = &arena;
  ctx.deterministic = f.deterministic;
  const ModelConfig config = parse_shape(f.shape);
  const int64_t rows = f.context * f.batch, width = config.width;
  const auto random = [&](const Shape& shape, double offset) {
    const Tensor tensor = ctx.make(shape);
    Random numbers(3, static_cast<uint64_t>(tensor.id));
    for (int64_t i = 0; i < tensor.count(); ++i)
      tensor.as<float>()[i] = static_cast<float>(numbers.uniform() + offset);
    return tensor;
  };
  const Tensor w = random({width}, -1.5), u = random({width}, 0), k = random({rows, width}, 0),
               v = random({rows, width}, 0);
  std::vector<int64_t> offsets, slots(f.batch, -1);
  for (int64_t i = 0; i <= f.batch; ++i) offsets.push_back(i * f.context);
  const Sequences sequences{f.batch, offsets.data(), slots.data(), slots.data()};
  std::vector<double> times, copy;
  for (int64_t i = 0; i < 5 * f.rounds + 1; ++i) {
    copy.push_back(measure_copy_rate(pool, f.megabytes << 20));
    const ArenaScope scope(arena);
    const auto start = Clock::now();
    wkv4(ctx, w, u, k, v, sequences, {});
    times.push_back(seconds_since(start));
  }
  // k and v read, y written, each once.
  const double bytes = 3.0 * 4.0 * static_cast<double>(width);
  Report report = make_report("wkv4", f, pool.threads(), static_cast<double>(rows) / median(times),
                              "copy bandwidth", median(copy) / bytes);
  report.json["context"] = f.context;
  report.json["batch"] = f.batch;
  report.json["copy_bandwidth"] = median(copy);
  print(report, f.json);
  return 0;
}

// Text to ids and back. Each thread has a part of the text, as when a data set is prepared.
int bench_tokenize(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_from(f.tokenizer);
  const std::string text = read_text_file(f.data);
  check(!text.empty(), "'{}' is empty: expected text", f.data);
  std::vector<std::string_view> parts;
  std::string_view rest = text;
  for (int left = pool.threads(); left > 1; --left) {
    // Lines stay whole.
    const size_t line = rest.find('\n', rest.size() / left);
    parts.push_back(rest.substr(0, line));
    rest.remove_prefix(parts.back().size());
  }
  parts.push_back(rest);
  const int64_t tasks = static_cast<int64_t>(parts.size());
  std::vector<std::vector<int32_t>> ids(tasks);
  std::vector<std::string> decoded(tasks);
  std::vector<double> encoding, decoding, read;
  // One pass that is not counted touches the memory.
  for (int64_t round = 0; round <= f.rounds && !stop_requested(); ++round) {
    read.push_back(measure_read_rate(pool, f.megabytes << 20));
    auto start = Clock::now();
    pool.run(tasks, [&](int64_t task, int) {
      ids[task].clear();
      tokenizer->encode_to(parts[task], ids[task]);
    });
    encoding.push_back(seconds_since(start));
    start = Clock::now();
    pool.run(tasks, [&](int64_t task, int) {
      decoded[task].clear();
      for (const int32_t id : ids[task]) decoded[task] += tokenizer->bytes_of(id);
    });
    decoding.push_back(seconds_since(start));
  }
  if (encoding.size() > 1) {
    encoding.erase(encoding.begin());
    decoding.erase(decoding.begin());
  }
  int64_t tokens = 0;
  for (const auto& part : ids) tokens += static_cast<int64_t>(part.size());
  const double bytes = static_cast<double>(text.size());
  const double encode_rate = bytes / median(encoding), decode_rate = bytes / median(decoding);
  const double per_token = bytes / static_cast<double>(tokens);
  Report report;
  report.json = {{"name", "tokenize"},
                 {"tokenizer", tokenizer->name()},
                 {"vocab_size", tokenizer->vocab_size()},
                 {"data", f.data},
                 {"threads", pool.threads()},
                 {"rounds", encoding.size()},
                 {"bytes", text.size()},
                 {"tokens", tokens},
                 {"bytes_per_token", per_token},
                 {"rate", encode_rate},
                 {"best_rate", bytes / *std::min_element(encoding.begin(), encoding.end())},
                 {"decode_rate", decode_rate},
                 {"bound", "read bandwidth"},
                 {"bound_rate", median(read)},
                 {"fraction", encode_rate / median(read)},
                 {"cpu", cpu_info().name}};
  report.text = fmt::format(
      "tokenize {} {} threads   encode {:.1f} MB/s, decode {:.1f} MB/s   {} tokens, {:.3f} bytes "
      "per token   encoding: {:.1f} % of the read bandwidth ({:.1f} GB/s), median of {}\n",
      tokenizer->name(), pool.threads(), encode_rate / 1e6, decode_rate / 1e6, tokens, per_token,
      100 * encode_rate / median(read), median(read) / 1e9, encoding.size());
  print(report, f.json);
  return 0;
}

struct Bench {
  const char *name, *what, *example;
  int (*run)(const BenchFlags&);
  bool shape, context, batch, tokens;
  int64_t default_context, default_batch;
};

constexpr Bench kBenches[] = {
    {"limits", "Read and copy bandwidth, float32 and bfloat16 matrix rates", "rookery bench limits",
     bench_limits, false, false, false, false, 0, 0},
    {"decode", "Tokens one by one, against the read bandwidth",
     "rookery bench decode --shape 4:12:768:50277 --dtype f32 --threads 2", bench_decode, true,
     false, true, true, 0, 1},
    {"prefill", "A prompt at once, against the matrix rate",
     "rookery bench prefill --shape 4:12:768:50277 --context 512", bench_prefill, true, true, false,
     false, 512, 1},
    {"train", "Training steps, against the matrix rate",
     "rookery bench train --shape 4:12:768:50277 --context 512 --batch 4", bench_train, true, true,
     true, false, 512, 4},
    {"wkv4", "The WKV operator alone, forward, against the copy bandwidth",
     "rookery bench wkv4 --shape 4:1:2048:256 --context 8192 --batch 1", bench_wkv4, true, true,
     true, false, 8192, 1},
    {"tokenize", "Text to ids and back, against the read bandwidth",
     "rookery bench tokenize --tokenizer rwkv_vocab_v20230424.txt --data book.txt", bench_tokenize,
     false, false, false, false, 0, 0},
};

}  // namespace

std::function<int()> add_bench(CLI::App& app) {
  CLI::App* verb = add_verb(app, "bench", "Measure speed, with the bound it is compared with",
                            "  rookery bench limits\n  rookery bench decode --shape 4:12:768:50277 "
                            "--dtype f32 --threads 2");
  verb->require_subcommand(1);
  auto chosen = std::make_shared<
      std::vector<std::tuple<CLI::App*, const Bench*, std::shared_ptr<BenchFlags>>>>();
  for (const Bench& bench : kBenches) {
    CLI::App* sub = add_verb(*verb, bench.name, bench.what, std::string("  ") + bench.example);
    auto flags = std::make_shared<BenchFlags>();
    if (bench.run == bench_tokenize) {  // of one core, and there is no model to make room for
      *flags->threads = 1;
      flags->megabytes = 256;
    }
    flags->context = bench.default_context;
    flags->batch = bench.default_batch;
    sub->add_option("--threads", *flags->threads, "Threads; 0: one for each physical core")
        ->check(CLI::Range(0, 1024))
        ->capture_default_str();
    sub->add_flag("--json", flags->json, "Report as one JSON object");
    if (bench.run != bench_tokenize) flags->device_name = add_device(*sub);
    {
      sub->add_option("--rounds", flags->rounds, "Measurements whose median is reported")
          ->check(CLI::Range(1, 1000))
          ->capture_default_str();
    }
    if (bench.run != bench_prefill && bench.run != bench_train) {
      sub->add_option("--megabytes", flags->megabytes, "Memory that the bandwidth is measured on")
          ->check(CLI::Range(8, 1 << 20))
          ->capture_default_str();
    }
    if (bench.run == bench_tokenize) {
      sub->add_option("--tokenizer", flags->tokenizer,
                      "A vocabulary file, a folder that holds one, or: bytes")
          ->required()
          ->type_name("FILE");
      sub->add_option("--data", flags->data, "A text file")->required()->type_name("FILE");
    }
    if (bench.shape) {
      sub->add_option("--shape", flags->shape,
                      "GENERATION:LAYERS:WIDTH:VOCABULARY; random weights, no file")
          ->capture_default_str();
      {
        const bool training = bench.run == bench_train || bench.run == bench_wkv4;
        sub->add_option("--dtype", flags->dtype, training ? "Products" : "Weights")
            ->check(CLI::IsMember(training ? std::vector<std::string>{"f32", "bf16"}
                                           : std::vector<std::string>{"f32", "bf16", "f16"}))
            ->capture_default_str();
      }
      sub->add_flag("--profile", flags->profile, "Time by operator, on standard error");
      sub->add_flag("--deterministic", flags->deterministic,
                    "Results that do not depend on the batch or the cutting");
    }
    if (bench.context)
      sub->add_option("--context", flags->context, "Tokens")
          ->check(at_least(1))
          ->capture_default_str();
    if (bench.batch)
      sub->add_option("--batch", flags->batch, "Sequences")
          ->check(at_least(1))
          ->capture_default_str();
    if (bench.run == bench_train) {
      sub->add_flag("--gradient-checkpointing", flags->checkpointing,
                    "Compute activations again on the way back");
    }
    if (bench.tokens) {
      sub->add_option("--tokens", flags->tokens, "Tokens to decode")
          ->check(at_least(1))
          ->capture_default_str();
    }
    chosen->emplace_back(sub, &bench, flags);
  }
  return [chosen] {
    catch_signals();
    for (const auto& [sub, bench, flags] : *chosen) {
      if (!sub->parsed()) continue;
      if (bench->run != bench_tokenize) flags->device = resolve_device(*flags->device_name);
      return bench->run(*flags);
    }
    return 2;
  };
}

}  // namespace rookery::cli
