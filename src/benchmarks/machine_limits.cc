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
#include <cstring>

#include "core/random.h"
#include "core/timing.h"
#include "ops/linear/linear.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
HWY_EXPORT(sum_streams);

namespace {

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
double device_seconds(const cuda::Stream& stream, Work work) {
  cuda::Timer timer(stream);
  std::vector<double> seconds;
  for (int i = 0; i < 6; ++i) {
    timer.start();
    work();
    const double milliseconds = timer.stop();
    if (i > 0) seconds.push_back(milliseconds / 1e3);
  }
  return median(seconds);
}

double device_product_rate(ThreadPool& pool, DType dtype, int repeats, Device device) {
  constexpr int64_t kSize = product_size(Device::kCuda);
  Arena arena(memory_of(device));
  Context ctx;
  ctx.use(device, dtype);
  ctx.pool = &pool;
  ctx.arena = &arena;
  const Tensor x = ctx.make({kSize, kSize}), weight = ctx.make({kSize, kSize});
  // Random numbers: zeros are multiplied faster.
  std::vector<uint16_t> numbers(kSize * kSize * size_of(dtype) / 2);
  Random random(5);
  for (uint16_t& bits : numbers) bits = to_bfloat16(random.uniform() - 0.5f).bits;
  copy_bytes(x.data, numbers.data(), x.bytes());
  copy_bytes(weight.data, numbers.data(), x.bytes());
  cuda::Timer timer(*ctx.stream);
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
    const Memory memory(bytes, memory_of(device));
    const cuda::Stream stream(cuda::Device::get(device.gpu));
    return static_cast<double>(bytes) /
           device_seconds(stream, [&] { stream.read(memory.data(), bytes); });
  }
  const int64_t pieces = std::max<int64_t>(bytes / (4 * kPiece), 1);
  const auto* data = static_cast<const float*>(warm_memory(pieces * kPiece * 4).data());
  std::vector<float> sums(pieces);
  const Stopwatch watch;
  pool.run(pieces, [&](int64_t i, int) {
    sums[i] = HWY_DYNAMIC_DISPATCH(sum_streams)(data + i * kPiece, kPiece);
  });
  const double seconds = watch.seconds();
  // Uses the sums, so that the reading is not left out.
  for (const float sum : sums) check(!std::isnan(sum)) || fail("memory changed while it was read");
  return static_cast<double>(pieces * kPiece * 4) / seconds;
}

double measure_copy_rate(ThreadPool& pool, int64_t bytes, Device device) {
  if (device == Device::kCuda) {
    const int64_t half = bytes / 2;
    const Memory from(half, memory_of(device)), to(half, memory_of(device));
    const cuda::Stream stream(cuda::Device::get(device.gpu));
    return static_cast<double>(2 * half) /
           device_seconds(stream, [&] { stream.copy(to.data(), from.data(), half); });
  }
  const int64_t pieces = std::max<int64_t>(bytes / (8 * kPiece), 1);
  auto* data = static_cast<float*>(warm_memory(2 * pieces * kPiece * 4).data());
  const Stopwatch watch;
  pool.run(pieces, [&](int64_t i, int) {
    std::memcpy(data + (pieces + i) * kPiece, data + i * kPiece, kPiece * 4);
  });
  return static_cast<double>(2 * pieces * kPiece * 4) / watch.seconds();
}

double measure_product_rate(ThreadPool& pool, DType dtype, int repeats, Device device) {
  check(dtype == DType::kF32 || dtype == DType::kBF16) ||
      fail("the product rate is measured for f32 and bf16");
  if (device == Device::kCuda) return device_product_rate(pool, dtype, repeats, device);
  constexpr int64_t kSize = product_size(Device::kCpu);
  const int64_t bytes = kSize * kSize * size_of(dtype);
  // Not kept: a training run measures once, before its own memory is in use.
  const Memory a(bytes), b(bytes), c(kSize * kSize * 4);
  std::memset(a.data(), 0x3c, bytes);
  std::memset(b.data(), 0x3c, bytes);
  Context ctx;
  ctx.pool = &pool;
  std::vector<double> rates;
  for (int i = 0; i <= repeats; ++i) {
    const Stopwatch watch;
    cpu::product({.m = kSize,
                  .n = kSize,
                  .k = kSize,
                  .a = {a.data(), dtype, kSize, false},
                  .b = {b.data(), dtype, kSize, true},
                  .c = static_cast<float*>(c.data()),
                  .c_stride = kSize},
                 ctx);
    // The first one touches the memory and compiles the library's kernel.
    if (i > 0) rates.push_back(2.0 * kSize * kSize * kSize / watch.seconds());
  }
  return median(rates);
}

MachineLimits measure_limits(ThreadPool& pool, int64_t bandwidth_bytes, int64_t rounds,
                             Device device) {
  std::vector<double> read, copy, f32, bf16;
  measure_copy_rate(pool, bandwidth_bytes, device);  // touches the memory
  for (int64_t i = 0; i < 2 * rounds + 1; ++i) {
    read.push_back(measure_read_rate(pool, bandwidth_bytes, device));
    copy.push_back(measure_copy_rate(pool, bandwidth_bytes, device));
    f32.push_back(measure_product_rate(pool, DType::kF32, 3, device));
    bf16.push_back(measure_product_rate(pool, DType::kBF16, 3, device));
  }
  return {median(read), median(copy), median(f32), median(bf16), 2 * rounds + 1};
}

}  // namespace rookery
#endif  // HWY_ONCE
