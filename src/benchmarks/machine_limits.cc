// Reads use four streams per thread: one does not fill the memory's bandwidth on every machine.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "benchmarks/machine_limits.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include "core/simd-inl.h"
#include "benchmarks/machine_limits.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {
namespace {

// Sums `count` floats, a multiple of 4 vectors.
float sum_streams(const float* HWY_RESTRICT p, int64_t count) {
  constexpr int kStreams = 4;
  const FloatTag d;
  const int64_t length = count / kStreams;
  FloatVector sums[kStreams];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (int64_t i = 0; i < length; i += float_lanes()) {
    HWY_UNROLL(4)  // or the sums would live in memory
    for (int s = 0; s < kStreams; ++s) sums[s] = hn::Add(sums[s], hn::LoadU(d, p + s * length + i));
  }
  for (int s = 1; s < kStreams; ++s) sums[0] = hn::Add(sums[0], sums[s]);
  return sum_lanes(sums[0]);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/random.h"
#include "ops/linear/linear.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
HWY_EXPORT(sum_streams);

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Elements of a piece that one task reads: long streams, and a late thread costs one piece only.
// Not a power of two: streams that far apart would fall into the same sets of the caches.
constexpr int64_t kPiece = 4 * ((int64_t{1} << 18) + 1040);

// Memory of the size asked for that was written once, so that every page exists.
const Memory& warm_memory(int64_t bytes) {
  static Memory memory;
  if (memory.bytes() < bytes) {
    memory = Memory();
    memory = Memory(bytes);
    std::memset(memory.data(), 1, static_cast<size_t>(bytes));
  }
  return memory;
}

// Seconds of `work` on the GPU, which only asks for it: the median of five after one that is not
// counted.
template <class Work>
double device_seconds(Work work) {
  cuda::Timer timer;
  std::vector<double> seconds;
  for (int i = 0; i < 6; ++i) {
    timer.start();
    work();
    const double milliseconds = timer.stop();
    if (i > 0) seconds.push_back(milliseconds / 1e3);
  }
  return median(seconds);
}

double device_product_rate(ThreadPool& pool, DType dtype, int repeats) {
  constexpr int64_t kSize = 8192;
  Arena arena(MemoryKind::kDevice);
  Context ctx;
  ctx.use(Device::kCuda, dtype);
  ctx.pool = &pool;
  ctx.arena = &arena;
  const Tensor x = ctx.make({kSize, kSize}), weight = ctx.make({kSize, kSize});
  // Random numbers: zeros are multiplied faster.
  std::vector<uint16_t> numbers(kSize * kSize * size_of(dtype) / 2);
  Random random(5);
  for (uint16_t& bits : numbers) bits = to_bfloat16(random.uniform() - 0.5f).bits;
  cuda::copy(x.data, numbers.data(), x.bytes());
  cuda::copy(weight.data, numbers.data(), x.bytes());
  cuda::Timer timer;
  std::vector<double> rates;
  for (int i = 0; i <= repeats; ++i) {
    const ArenaScope scope(arena);
    timer.start();
    linear(ctx, x, Weight{weight, {}});
    const double seconds = timer.stop() / 1e3;
    if (i > 0) rates.push_back(2.0 * kSize * kSize * kSize / seconds);
  }
  return median(rates);
}

}  // namespace

double measure_read_rate(ThreadPool& pool, int64_t bytes, Device device) {
  if (device == Device::kCuda) {
    const Memory memory(bytes, MemoryKind::kDevice);
    return static_cast<double>(bytes) /
           device_seconds([&] { cuda::read_in_order(memory.data(), bytes); });
  }
  const int64_t pieces = std::max<int64_t>(bytes / (4 * kPiece), 1);
  const auto* data = static_cast<const float*>(warm_memory(pieces * kPiece * 4).data());
  std::vector<float> sums(pieces);
  const auto start = Clock::now();
  pool.run(pieces, [&](int64_t i, int) {
    sums[i] = HWY_DYNAMIC_DISPATCH(sum_streams)(data + i * kPiece, kPiece);
  });
  const double seconds = seconds_since(start);
  // Uses the sums, so that the reading is not left out.
  for (const float sum : sums) check(!std::isnan(sum)) || fail("memory changed while it was read");
  return static_cast<double>(pieces * kPiece * 4) / seconds;
}

double measure_copy_rate(ThreadPool& pool, int64_t bytes, Device device) {
  if (device == Device::kCuda) {
    const int64_t half = bytes / 2;
    const Memory from(half, MemoryKind::kDevice), to(half, MemoryKind::kDevice);
    return static_cast<double>(2 * half) /
           device_seconds([&] { cuda::copy_in_order(to.data(), from.data(), half); });
  }
  const int64_t pieces = std::max<int64_t>(bytes / (8 * kPiece), 1);
  auto* data = static_cast<float*>(warm_memory(2 * pieces * kPiece * 4).data());
  const auto start = Clock::now();
  pool.run(pieces, [&](int64_t i, int) {
    std::memcpy(data + (pieces + i) * kPiece, data + i * kPiece, kPiece * 4);
  });
  return static_cast<double>(2 * pieces * kPiece * 4) / seconds_since(start);
}

double measure_product_rate(ThreadPool& pool, DType dtype, int repeats, Device device) {
  check(dtype == DType::kF32 || dtype == DType::kBF16) ||
      fail("the product rate is measured for f32 and bf16");
  if (device == Device::kCuda) return device_product_rate(pool, dtype, repeats);
  constexpr int64_t kSize = 2048;
  const int64_t bytes = kSize * kSize * size_of(dtype);
  // Not kept: a training run measures once, before its own memory is in use.
  const Memory a(bytes), b(bytes), c(kSize * kSize * 4);
  std::memset(a.data(), 0x3c, bytes);
  std::memset(b.data(), 0x3c, bytes);
  Context ctx;
  ctx.pool = &pool;
  std::vector<double> rates;
  for (int i = 0; i <= repeats; ++i) {
    const auto start = Clock::now();
    cpu::product({.m = kSize,
                  .n = kSize,
                  .k = kSize,
                  .a = {a.data(), dtype, kSize, false},
                  .b = {b.data(), dtype, kSize, true},
                  .c = static_cast<float*>(c.data()),
                  .c_stride = kSize},
                 ctx);
    // The first one touches the memory and compiles the library's kernel.
    if (i > 0) rates.push_back(2.0 * kSize * kSize * kSize / seconds_since(start));
  }
  return median(rates);
}

double median(std::vector<double> values) {
  check(!values.empty()) || fail("the median of nothing");
  std::sort(values.begin(), values.end());
  return values[(values.size() - 1) / 2];
}

}  // namespace rookery
#endif  // HWY_ONCE
