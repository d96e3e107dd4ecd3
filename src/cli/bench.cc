// `rookery bench`: what this machine can do, and what share of it each job reaches.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "benchmarks/jobs.h"
#include "benchmarks/machine_limits.h"
#include "benchmarks/operators.h"
#include "benchmarks/tokenizing.h"
#include "checkpoints/tokenizers.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/cpu_info.h"
#include "core/device.h"
#include "io/file.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"

namespace rookery::cli {
namespace {

using Json = nlohmann::json;

struct BenchFlags {
  std::string shape = "4:12:768:50277", dtype = "f32";
  std::string tokenizer, data;
  std::shared_ptr<int> threads = std::make_shared<int>(0);
  std::shared_ptr<std::string> device_name = std::make_shared<std::string>("auto");
  Device device = Device::kCpu;
  int64_t context = 512, batch = 4, tokens = 200, rounds = 5, megabytes = 1024;
  bool checkpointing = false, json = false, profile = false, deterministic = false;

  int64_t bandwidth_bytes() const { return megabytes << 20; }
};

struct Report {
  Json json;
  std::string text;
};

// The fields that every job has: a rate in tokens per second, and the bound it is compared with.
Report make_report(const std::string& name, const BenchFlags& f, int threads,
                   const Throughput& tokens, const std::string& bound) {
  Report report;
  report.json = {{"name", name},
                 {"shape", f.shape},
                 {"dtype", f.dtype},
                 {"threads", threads},
                 {"rate", tokens.rate},
                 {"bound", bound},
                 {"bound_rate", tokens.bound},
                 {"fraction", tokens.fraction()},
                 {"device", describe(f.device)},
                 {"cpu", cpu_info().name}};
  const std::string where =
      f.device == Device::kCuda ? describe(f.device) : fmt::format("{} threads", threads);
  report.text = fmt::format(
      "{} {} {} {}   {:.1f} tokens/s   {:.1f} % of the {} ({:.1f} tokens/s)\n", name, f.shape,
      f.dtype, where, tokens.rate, 100 * tokens.fraction(), bound, tokens.bound);
  return report;
}

int print(const Report& report, const BenchFlags& f) {
  write_output(f.json ? report.json.dump() + "\n" : report.text);
  return 0;
}

// To standard error, if --profile was given.
void print_profile(const Profile& profile, const BenchFlags& f) {
  if (!f.profile) return;
  std::vector<std::pair<double, std::string>> entries;
  double total = 0;
  for (const auto& [name, entry] : profile.entries) {
    entries.emplace_back(entry.seconds, fmt::format("{:28} {:8} calls {:9.3f} ms\n", name,
                                                    entry.calls, 1e3 * entry.seconds));
    total += entry.seconds;
  }
  std::sort(entries.rbegin(), entries.rend());
  for (const auto& [seconds, line] : entries) {
    fmt::print(stderr, "{:5.1f} %  {}", 100 * seconds / total, line);
  }
}

int bench_limits(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const MachineLimits limits = measure_limits(pool, f.bandwidth_bytes(), f.rounds, f.device);
  Report report;
  report.json = {
      {"name", "limits"},
      {"shape", fmt::format("{} MiB, products of {}", f.megabytes, product_size(f.device))},
      {"device", describe(f.device)},
      {"dtype", "f32, bf16"},
      {"threads", pool.threads()},
      {"rate", limits.read_bandwidth},
      {"bound", "bytes/s and FLOP/s of this machine"},
      {"bound_rate", limits.read_bandwidth},
      {"fraction", 1.0},
      {"cpu", cpu_info().name},
      {"bf16_instructions", cpu_info().bf16_products},
      {"amx", cpu_info().amx_bf16},
      {"read_bandwidth", limits.read_bandwidth},
      {"copy_bandwidth", limits.copy_bandwidth},
      {"f32_matrix_rate", limits.f32_matmul_rate},
      {"bf16_matrix_rate", limits.bf16_matmul_rate}};
  report.text = fmt::format(
      "{}\n{} threads, medians of {}\n"
      "read            {:8.1f} GB/s   ({} MiB)\n"
      "copy            {:8.1f} GB/s   (read and written together)\n"
      "float32 matrix  {:8.1f} GFLOP/s\n"
      "bfloat16 matrix {:8.1f} GFLOP/s{}\n",
      describe(f.device), pool.threads(), limits.rounds, limits.read_bandwidth / 1e9, f.megabytes,
      limits.copy_bandwidth / 1e9, limits.f32_matmul_rate / 1e9, limits.bf16_matmul_rate / 1e9,
      f.device == Device::kCuda  ? " (the library's)"
      : cpu_info().amx_bf16      ? " (AMX)"
      : cpu_info().bf16_products ? " (AVX512-BF16)"
                                 : " (no instructions for it: by our own tiles)");
  return print(report, f);
}

int bench_decode(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  Profile profile;
  Progress progress(stderr, {.title = "decode", .total = f.tokens});
  const DecodeResult result = measure_decode({.config = parse_shape(f.shape),
                                              .weights = parse_dtype(f.dtype),
                                              .device = f.device,
                                              .batch = f.batch,
                                              .tokens = f.tokens,
                                              .rounds = f.rounds,
                                              .bandwidth_bytes = f.bandwidth_bytes(),
                                              .deterministic = f.deterministic,
                                              .profile = f.profile ? &profile : nullptr,
                                              .go_on =
                                                  [&](int64_t done) {
                                                    progress.update(done);
                                                    return !stop_requested();
                                                  }},
                                             pool);
  Report report = make_report("decode", f, pool.threads(), result.tokens, "read bandwidth");
  report.json["read_bandwidth"] = result.read_bandwidth;
  const double megabytes = result.bytes_per_step / 1e6;
  if (result.ageing) {
    progress.finish();
    report.json["bytes_per_token"] = result.bytes_per_step;
    report.json["tokens"] = result.ageing->steps;
    report.json["first_rate"] = result.ageing->early_rate;
    report.json["last_rate"] = result.ageing->late_rate;
    report.json["memory_growth"] = result.ageing->memory_growth;
    report.text += fmt::format(
        "{:.0f} MB per token at {:.1f} GB/s; in turns, around the 100th token {:.1f}/s and after "
        "the {}th {:.1f}/s; memory grew by {}\n",
        megabytes, result.read_bandwidth / 1e9, result.ageing->early_rate, result.ageing->steps,
        result.ageing->late_rate, format_bytes(static_cast<double>(result.ageing->memory_growth)));
  } else {
    report.json["batch"] = f.batch;
    report.json["bytes_per_step"] = result.bytes_per_step;
    report.json["seconds_per_step"] = result.seconds_per_step;
    report.text +=
        fmt::format("{} sequences, {:.1f} us per step; {:.1f} MB per step at {:.0f} GB/s\n",
                    f.batch, result.seconds_per_step * 1e6, megabytes, result.read_bandwidth / 1e9);
  }
  print_profile(profile, f);
  return print(report, f);
}

// The report of a job that products bound.
Report matmul_report(const std::string& name, const BenchFlags& f, int threads,
                     const MatmulBound& result) {
  Report report = make_report(name, f, threads, result.tokens,
                              std::string(name_of(result.products)) + " matrix rate");
  report.json["context"] = f.context;
  report.json["matrix_rate"] = result.matmul_rate;
  report.json["flops_per_token"] = result.flops_per_token;
  return report;
}

// "382 of 390 GFLOP/s"
std::string share_of_rate(const MatmulBound& result) {
  return fmt::format("{:.0f} of {:.0f} GFLOP/s", result.flops_per_token * result.tokens.rate / 1e9,
                     result.matmul_rate / 1e9);
}

int bench_train(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  Profile profile;
  const MatmulBound result = measure_training({.config = parse_shape(f.shape),
                                               .products = parse_dtype(f.dtype),
                                               .device = f.device,
                                               .context = f.context,
                                               .batch = f.batch,
                                               .rounds = f.rounds,
                                               .gradient_checkpointing = f.checkpointing,
                                               .profile = f.profile ? &profile : nullptr},
                                              pool);
  const auto peak = process_memory().peak;
  Report report = matmul_report("train", f, pool.threads(), result);
  report.json["batch"] = f.batch;
  report.json["seconds_per_step"] = result.seconds;
  report.json["peak_memory"] = peak;
  report.text +=
      fmt::format("{} x {} tokens, {:.2f} s per step, {}, peak memory {}\n", f.batch, f.context,
                  result.seconds, share_of_rate(result), format_bytes(static_cast<double>(peak)));
  print_profile(profile, f);
  return print(report, f);
}

int bench_prefill(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  Profile profile;
  const MatmulBound result = measure_prefill({.config = parse_shape(f.shape),
                                              .weights = parse_dtype(f.dtype),
                                              .device = f.device,
                                              .context = f.context,
                                              .rounds = f.rounds,
                                              .deterministic = f.deterministic,
                                              .profile = f.profile ? &profile : nullptr},
                                             pool);
  Report report = matmul_report("prefill", f, pool.threads(), result);
  report.text +=
      fmt::format("{} tokens in {:.3f} s, {}\n", f.context, result.seconds, share_of_rate(result));
  print_profile(profile, f);
  return print(report, f);
}

int bench_wkv4(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const int64_t width = parse_shape(f.shape).width;
  const Wkv4Result result = measure_wkv4({.width = width,
                                          .context = f.context,
                                          .batch = f.batch,
                                          .activations = parse_dtype(f.dtype),
                                          .device = f.device,
                                          .rounds = f.rounds,
                                          .bandwidth_bytes = f.bandwidth_bytes(),
                                          .deterministic = f.deterministic},
                                         pool);
  Report report = make_report("wkv4", f, pool.threads(), result.tokens, "copy bandwidth");
  report.json["context"] = f.context;
  report.json["batch"] = f.batch;
  report.json["copy_bandwidth"] = result.copy_bandwidth;
  if (result.training) {
    report.json["forward_ms"] = result.forward_seconds * 1e3;
    report.json["recording_ms"] = result.training->forward_seconds * 1e3;
    report.json["backward_ms"] = result.training->backward_seconds * 1e3;
    report.json["backward_fraction"] = result.training->backward_fraction;
    report.text = fmt::format(
        "wkv4 ({}, {}, {}) {} {}   forward {:.1f} us, {:.1f} % of the copy bandwidth ({:.0f} "
        "GB/s); keeping states {:.1f} us; backward {:.1f} us, {:.1f} %\n",
        f.batch, f.context, width, f.dtype, describe(f.device), result.forward_seconds * 1e6,
        100 * result.tokens.fraction(), result.copy_bandwidth / 1e9,
        result.training->forward_seconds * 1e6, result.training->backward_seconds * 1e6,
        100 * result.training->backward_fraction);
  }
  return print(report, f);
}

int bench_tokenize(const BenchFlags& f) {
  ThreadPool pool(resolve_threads(*f.threads));
  const std::unique_ptr<Tokenizer> tokenizer = named_tokenizer(f.tokenizer);
  const std::string text = read_text_file(f.data);
  check(!text.empty()) || fail("'{}' is empty: expected text", f.data);
  const TokenizingResult result = measure_tokenizing(
      text, *tokenizer, f.rounds, f.bandwidth_bytes(), pool, [] { return !stop_requested(); });
  const double fraction = result.encode_rate / result.read_bandwidth;
  const double bytes_per_token =
      static_cast<double>(text.size()) / static_cast<double>(result.tokens);
  Report report;
  report.json = {{"name", "tokenize"},
                 {"tokenizer", tokenizer->name()},
                 {"vocab_size", tokenizer->vocab_size()},
                 {"data", f.data},
                 {"threads", pool.threads()},
                 {"rounds", result.rounds},
                 {"bytes", text.size()},
                 {"tokens", result.tokens},
                 {"bytes_per_token", bytes_per_token},
                 {"rate", result.encode_rate},
                 {"best_rate", result.best_encode_rate},
                 {"decode_rate", result.decode_rate},
                 {"bound", "read bandwidth"},
                 {"bound_rate", result.read_bandwidth},
                 {"fraction", fraction},
                 {"cpu", cpu_info().name}};
  report.text = fmt::format(
      "tokenize {} {} threads   encode {:.1f} MB/s, decode {:.1f} MB/s   {} tokens, {:.3f} bytes "
      "per token   encoding: {:.1f} % of the read bandwidth ({:.1f} GB/s), median of {}\n",
      tokenizer->name(), pool.threads(), result.encode_rate / 1e6, result.decode_rate / 1e6,
      result.tokens, bytes_per_token, 100 * fraction, result.read_bandwidth / 1e9, result.rounds);
  return print(report, f);
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
    sub->add_option("--rounds", flags->rounds, "Measurements whose median is reported")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
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
      const bool training = bench.run == bench_train || bench.run == bench_wkv4;
      sub->add_option("--dtype", flags->dtype, training ? "Products" : "Weights")
          ->check(CLI::IsMember(training ? std::vector<std::string>{"f32", "bf16"}
                                         : std::vector<std::string>{"f32", "bf16", "f16"}))
          ->capture_default_str();
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
