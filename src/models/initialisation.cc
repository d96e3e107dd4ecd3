#include "models/initialisation.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "core/context.h"
#include "core/error.h"
#include "ops/linear/product_cpu.h"

namespace rookery {
namespace {

// FNV-1a, 64 bits, of the parameter's name: every parameter has random numbers of its own, and one
// seed gives one model for ever.
uint64_t stream_of(std::string_view name) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

void fill_normal(const FreshParameter& fresh, double deviation) {
  fresh.pool.for_ranges(fresh.value.count(), 4096, [&](int64_t begin, int64_t end, int) {
    Random numbers = fresh.random;
    numbers.set_position(4 * static_cast<uint64_t>(begin));  // a normal number takes four
    for (int64_t i = begin; i < end; ++i) {
      fresh.value.as<float>()[i] = static_cast<float>(numbers.normal() * deviation);
    }
  });
}

// The polar factor of a normal matrix, which is distributed like the Q of its QR decomposition
// (Haar), by Newton-Schulz iteration X <- X (3 - X^T X) / 2. Only products, so large heads take
// seconds; by our own tiles, so that every machine gets the same numbers to rounding.
void fill_orthogonal(const FreshParameter& fresh, double gain) {
  const TensorView& value = fresh.value;
  const int64_t rows = value.shape[0], cols = value.shape[1];
  const bool tall = rows >= cols;
  const int64_t n = std::min(rows, cols), m = std::max(rows, cols);
  fill_normal(fresh, 1.0);
  float* x = value.as<float>();
  // The largest singular value is near sqrt(m) + sqrt(n); scaled to just under 1 it converges.
  const auto scale = static_cast<float>(1 / (1.05 * (std::sqrt(m) + std::sqrt(n))));
  for (int64_t i = 0; i < value.count(); ++i) x[i] *= scale;

  Context ctx;
  ctx.pool = &fresh.pool;
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

Init in_every_scheme(Init::Filling filling) { return {filling, filling}; }

}  // namespace

Init constant(double value) {
  return in_every_scheme([value](const FreshParameter& fresh) {
    std::fill_n(fresh.value.as<float>(), fresh.value.count(), static_cast<float>(value));
  });
}

Init each(const std::function<double(double i)>& formula) {
  return in_every_scheme([formula](const FreshParameter& fresh) {
    for (int64_t i = 0; i < fresh.value.count(); ++i) {
      fresh.value.as<float>()[i] = static_cast<float>(formula(static_cast<double>(i)));
    }
  });
}

Init normal(double deviation) {
  return in_every_scheme([=](const FreshParameter& fresh) { fill_normal(fresh, deviation); });
}

Init orthogonal(double gain) {
  return in_every_scheme([gain](const FreshParameter& fresh) {
    const double ratio =
        static_cast<double>(fresh.value.shape[0]) / static_cast<double>(fresh.value.shape[1]);
    fill_orthogonal(fresh, gain * std::sqrt(std::max(1.0, ratio)));
  });
}

Init small_uniform() {
  return in_every_scheme([](const FreshParameter& fresh) {
    const double low = -fresh.options.embedding_scale, high = fresh.options.embedding_scale;
    Random random = fresh.random;
    for (int64_t i = 0; i < fresh.value.count(); ++i) {
      fresh.value.as<float>()[i] = static_cast<float>(low + (high - low) * random.uniform());
    }
  });
}

void initialise(std::string_view name, const Init& init, bool matrix, const InitOptions& options,
                const TensorView& value, ThreadPool& pool) {
  check(std::find(std::begin(kInitSchemes), std::end(kInitSchemes), options.scheme) !=
        std::end(kInitSchemes)) ||
      fail("unknown initialisation '{}': expected released, paper or random", options.scheme);
  const FreshParameter fresh{value, Random(options.seed, stream_of(name)), options, pool};
  if (options.scheme == "released") return init.released(fresh);
  if (options.scheme == "paper") return init.paper(fresh);
  if (matrix) {
    const int64_t inputs = value.shape[value.shape.rank() - 1];
    return fill_normal(fresh, 1 / std::sqrt(static_cast<double>(inputs)));
  }
  fill_normal(fresh, 0.3);
  for (int64_t i = 0; i < value.count(); ++i) {
    value.as<float>()[i] += static_cast<float>(init.centre);
  }
}

}  // namespace rookery
