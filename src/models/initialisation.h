// What a fresh parameter holds. A generation writes the formulas beside its parameters' rows; here
// are the ways to fill a tensor, and the schemes between which `init` and `train` choose.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/random.h"
#include "core/tensor.h"
#include "core/threads.h"

namespace rookery {

struct InitOptions {
  std::string scheme = "released";  // released, paper, or random: dense, for comparing programs
  uint64_t seed = 1;
  double embedding_scale = 1e-4;  // the released code takes the initial learning rate
};

// The schemes' names, for --help and errors.
inline constexpr std::string_view kInitSchemes[] = {"released", "paper", "random"};

// A parameter that is being filled.
struct FreshParameter {
  TensorView value;  // float32
  Random random;     // of the seed and the parameter's name
  const InitOptions& options;
  ThreadPool& pool;  // works on large matrices
};

// How a parameter begins, by scheme.
struct Init {
  using Filling = std::function<void(const FreshParameter&)>;

  Filling released;   // as the public training code does
  Filling paper;      // as the paper says
  double centre = 0;  // scheme "random": vectors have standard deviation 0.3 around it

  // The same, but for the paper's scheme.
  Init in_paper(const Init& other) const { return {released, other.paper, centre}; }
  // The same, but for the scheme "random".
  Init around(double value) const { return {released, paper, value}; }
};

Init constant(double value);
// Element i is formula(i).
Init each(const std::function<double(double i)>& formula);
// Normal numbers of mean 0.
Init normal(double deviation);
// A random matrix with orthonormal rows or columns (whichever are fewer), times
// gain * sqrt(max(1, rows / columns)).
Init orthogonal(double gain = 1);
// Uniform within +-InitOptions::embedding_scale.
Init small_uniform();

// Fills a float32 tensor by the options' scheme. Random numbers depend on the seed and the name
// only. `matrix`: its last size counts inputs, and in the scheme "random" it has standard deviation
// 1 / sqrt(inputs), which keeps activations near one. Throws Error for an unknown scheme.
void initialise(std::string_view name, const Init& init, bool matrix, const InitOptions& options,
                const TensorView& value, ThreadPool& pool);

}  // namespace rookery
