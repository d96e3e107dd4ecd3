#include "benchmarks/random_model.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"

namespace rookery {
namespace {

// Not a power of two: rows of a matrix differ.
constexpr int64_t kNumbers = (int64_t{1} << 20) + 7919;

Model random_model_on_gpu(const ModelConfig& config, DType matrices, Device device) {
  check(matrices != DType::kF16) ||
      fail("a model in f16 is not possible on a GPU: expected f32 or bf16");
  Model model = Model::zeros_on_gpu(config, matrices, device);
  const RandomFiller filler;
  for (const Parameter& p : model.parameters()) {
    const bool norm = p.spec.name.ends_with(".weight") && !p.spec.is_matrix();
    const auto width = static_cast<double>(p.value.cols());
    filler.fill(p.value, p.spec.is_matrix() ? 1 / std::sqrt(width) : 0.1, norm ? 1 : 0);
  }
  return model;
}

}  // namespace

RandomFiller::RandomFiller() : numbers_(kNumbers) {
  Random random(7);
  for (float& x : numbers_) x = static_cast<float>(random.normal());
}

void RandomFiller::fill(const TensorView& view, double scale, double offset) const {
  const int64_t count = std::min(view.count(), kNumbers);
  std::vector<std::byte> block(static_cast<size_t>(count * size_of(view.dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<float>(numbers_[i] * scale + offset);
    if (view.dtype == DType::kF32) reinterpret_cast<float*>(block.data())[i] = x;
    if (view.dtype == DType::kBF16) {
      reinterpret_cast<BFloat16*>(block.data())[i] = to_bfloat16(x);
    }
  }
  const auto size = static_cast<int64_t>(block.size());
  for (int64_t at = 0; at < view.bytes(); at += size) {
    copy_bytes(static_cast<char*>(view.data) + at, block.data(), std::min(size, view.bytes() - at));
  }
}

Model random_model(const ModelConfig& config, DType matrices, Device device, ThreadPool& pool) {
  if (device == Device::kCuda) return random_model_on_gpu(config, matrices, device);
  Model model = Model::initialised(config, {.scheme = "random"}, pool);
  if (matrices == DType::kF32) return model;
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : model.parameters()) tensors.push_back({p.spec.name, p.value});
  return model_from_tensors(tensors, matrix_type(matrices));
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  Random random(7);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

}  // namespace rookery
