// What the benches of the processor (bench.cc) and of a GPU (bench_gpu.cc) share.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/context.h"
#include "models/model.h"

namespace rookery::cli {

struct BenchFlags {
  std::string shape = "4:12:768:50277", dtype = "f32";
  std::string tokenizer, data;
  std::shared_ptr<int> threads = std::make_shared<int>(0);
  std::shared_ptr<std::string> device_name = std::make_shared<std::string>("auto");
  Device device = Device::kCpu;
  int64_t context = 512, batch = 4, tokens = 200, rounds = 5, megabytes = 1024;
  bool checkpointing = false, json = false, profile = false, deterministic = false;
};

struct Report {
  nlohmann::json json;
  std::string text;
};

// The fields every bench has: a rate in tokens per second, and the bound it is compared with.
Report make_report(const std::string& name, const BenchFlags& f, int threads, double rate,
                   const std::string& bound, double bound_rate);
void print(const Report& report, bool json);
// To standard error.
void print_profile(const Profile& profile);

std::vector<int32_t> some_tokens(int64_t count, int64_t vocabulary);

// A dense model in the GPU's memory, of random numbers that repeat.
Model bench_model_on_gpu(const BenchFlags& f);

// `rookery bench` with a GPU.
int bench_decode_on_gpu(const BenchFlags& f);
int bench_wkv4_on_gpu(const BenchFlags& f);

}  // namespace rookery::cli
