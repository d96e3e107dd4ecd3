#include "models/parameters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/random.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
namespace {

void fill_normal(const Random& random, double deviation, const TensorView& value,
                 ThreadPool& pool) {
  pool.for_ranges(value.count(), 4096, [&](int64_t begin, int64_t end, int) {
    Random numbers = random;
    numbers.set_position(4 * static_cast<uint64_t>(begin));  // a normal number takes four
    for (int64_t i = begin; i < end; ++i) {
      value.as<float>()[i] = static_cast<float>(numbers.normal() * deviation);
    }
  });
}

void fill_uniform(Random random, double low, double high, const TensorView& value) {
  float* p = value.as<float>();
  for (int64_t i = 0; i < value.count(); ++i) {
    p[i] = static_cast<float>(low + (high - low) * random.uniform());
  }
}

// A random matrix with orthonormal rows or columns (whichever are fewer), times `gain`: the polar
// factor of a normal matrix, which is distributed like the Q of its QR decomposition (Haar), by
// Newton-Schulz iteration X <- X (3 - X^T X) / 2. Only products, so large heads take seconds; by
// our own tiles, so that every machine gets the same numbers to rounding.
void fill_orthogonal(const Random& random, double gain, const TensorView& value, ThreadPool& pool) {
  const int64_t rows = value.shape[0], cols = value.shape[1];
  const bool tall = rows >= cols;
  const int64_t n = std::min(rows, cols), m = std::max(rows, cols);
  fill_normal(random, 1.0, value, pool);
  float* x = value.as<float>();
  // The largest singular value is near sqrt(m) + sqrt(n); scaled to just under 1 it converges.
  const auto scale = static_cast<float>(1 / (1.05 * (std::sqrt(m) + std::sqrt(n))));
  for (int64_t i = 0; i < value.count(); ++i) x[i] *= scale;

  Context ctx;
  ctx.pool = &pool;
  ctx.deterministic = true;
  std::vector<float> gram(n * n), next(value.count());
  const auto operand = [](const float* data, int64_t stride, bool transposed) {
    return cpu::Operand{data, DType::kF32, stride, transposed};
  };
  for (int iteration = 0; iteration < 100; ++iteration) {
    // gram = X^T X (tall) or X X^T (wide).
    cpu::product({.m = n,
                  .n = n,
                  .k = m,
                  .a = operand(x, cols, tall),
                  .b = operand(x, cols, !tall),
                  .c = gram.data(),
                  .c_stride = n},
                 ctx);
    float error = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        error = std::max(error, std::abs(gram[i * n + j] - (i == j ? 1.0f : 0.0f)));
        gram[i * n + j] = (i == j ? 1.5f : 0.0f) - 0.5f * gram[i * n + j];
      }
    }
    if (error < 1e-5f) break;
    cpu::product({.m = rows,
                  .n = cols,
                  .k = n,
                  .a = tall ? operand(x, cols, false) : operand(gram.data(), n, false),
                  .b = tall ? operand(gram.data(), n, false) : operand(x, cols, false),
                  .c = next.data(),
                  .c_stride = cols},
                 ctx);
    std::copy(next.begin(), next.end(), x);
  }
  for (int64_t i = 0; i < value.count(); ++i) x[i] *= static_cast<float>(gain);
}

}  // namespace

int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blocks.";
  int64_t layer = 0;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  return layer;
}

namespace {

// FNV-1a, 64 bits, of the parameter's name: every parameter has random numbers of its own, and one
// seed gives one model for ever.
uint64_t random_stream_of(std::string_view name) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace

void initialise(const ParameterSpec& spec, const ModelConfig& config, const InitOptions& options,
                const TensorView& value, ThreadPool& pool) {
  check(std::find(std::begin(kInitSchemes), std::end(kInitSchemes), options.scheme) !=
        std::end(kInitSchemes)) ||
      fail("unknown initialisation '{}': expected released, paper or random", options.scheme);
  const Random random(options.seed, random_stream_of(spec.name));
  const int64_t count = value.count(), layer = layer_of(spec.name);
  float* p = value.as<float>();
  if (options.scheme == "random") {
    // Every number takes part: near one where ones stand, and of a size that keeps activations near
    // one.
    if (spec.is_matrix()) {
      return fill_normal(random, 1 / std::sqrt(static_cast<double>(spec.shape[1])), value, pool);
    }
    fill_normal(random, 0.3, value, pool);
    const bool mix = spec.released == Init::kMixKey || spec.released == Init::kMixValue ||
                     spec.released == Init::kMixReceptance;
    const float centre = spec.released == Init::kOne          ? 1.0f
                         : mix                                ? 0.5f
                         : spec.released == Init::kDecaySpeed ? -1.0f
                                                              : 0.0f;
    for (int64_t i = 0; i < count; ++i) p[i] += centre;
    return;
  }
  const bool paper = options.scheme == "paper";
  const double l = static_cast<double>(layer), layers = static_cast<double>(config.layers);
  const double from_first = config.layers > 1 ? l / (layers - 1) : 0;  // 0 .. 1
  const double to_last = 1 - l / layers;                               // 1 .. nearly 0
  const double width = static_cast<double>(config.width);
  const auto each = [&](auto formula) {
    for (int64_t i = 0; i < count; ++i) p[i] = static_cast<float>(formula(static_cast<double>(i)));
  };
  switch (paper ? spec.paper : spec.released) {
    case Init::kZero:
      return each([](double) { return 0.0; });
    case Init::kOne:
      return each([](double) { return 1.0; });
    case Init::kEmbedding:
      return fill_uniform(random, -options.embedding_scale, options.embedding_scale, value);
    case Init::kOrthogonal:
      return fill_orthogonal(
          random,
          spec.gain * std::sqrt(std::max(1.0, static_cast<double>(spec.shape[0]) /
                                                  static_cast<double>(spec.shape[1]))),
          value, pool);
    case Init::kNormal:
      return fill_normal(random, spec.gain, value, pool);
    case Init::kMixKey:
      return each([&](double i) { return std::pow(i / width, to_last); });
    case Init::kMixValue:
      return each([&](double i) { return std::pow(i / width, to_last) + 0.3 * from_first; });
    case Init::kMixReceptance:
      // The paper halves the value, the code the exponent.
      return each([&](double i) {
        return paper ? 0.5 * std::pow(i / width, to_last) : std::pow(i / width, 0.5 * to_last);
      });
    case Init::kDecaySpeed: {
      const double last = std::max<double>(static_cast<double>(count - 1), 1);
      return each([&](double i) { return -5 + 8 * std::pow(i / last, 0.7 + 1.3 * from_first); });
    }
    case Init::kBonus:
      return each([](double i) { return std::log(0.3) + 0.5 * (std::fmod(i + 1, 3) - 1); });
  }
}

}  // namespace rookery
