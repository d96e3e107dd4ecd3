#include "models/model.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "core/convert.h"
#include "core/error.h"
#include "ops/embedding/embedding.h"
#include "ops/layer_norm/layer_norm.h"

namespace rookery {

Model::Model(const ModelConfig& config) : config_(config) {
  const Generation& generation = find_generation(config.generation);
  state_layout_ = generation.state_layout(config);
  for (ParameterSpec& spec : generation.parameters(config)) {
    Tensor value;
    value.shape = spec.shape;
    parameters_.push_back({.spec = std::move(spec), .value = value});
  }
  network_ = generation.make(config_, parameters_);
}

void Model::allocate(const std::vector<DType>& dtypes, Device device) {
  device_ = device;
  int64_t bytes = 0;
  const auto round_up = [](int64_t x) {
    return (x + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].value.dtype = dtypes[i];
    parameters_[i].padded = device == Device::kCuda && parameters_[i].spec.is_matrix();
    bytes += round_up(parameters_[i].room() * size_of(dtypes[i]));
  }
  memory_ = Memory(bytes, memory_of(device));
  char* next = static_cast<char*>(memory_.data());
  for (Parameter& parameter : parameters_) {
    parameter.value.data = next;
    next += round_up(parameter.room() * size_of(parameter.value.dtype));
  }
}

Model Model::initialised(const ModelConfig& config, const InitOptions& options, ThreadPool& pool) {
  Model model(config);
  model.allocate(std::vector(model.parameters_.size(), DType::kF32));
  for (const Parameter& parameter : model.parameters_) {
    initialise(parameter.spec, config, options, parameter.value, pool);
  }
  return model;
}

Model Model::planned(const ModelConfig& config) { return Model(config); }

Model Model::unfilled(const ModelConfig& config, const std::vector<DType>& dtypes, Device device) {
  Model model(config);
  model.allocate(dtypes, device);
  return model;
}

const Parameter& Model::parameter(std::string_view name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.spec.name == name) return parameter;
  }
  fail("RWKV-{} has no parameter '{}'", config_.generation, name);
}

int64_t Model::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += parameter.value.count();
  return count;
}

int64_t Model::bytes() const {
  int64_t bytes = 0;
  for (const Parameter& parameter : parameters_) bytes += parameter.value.bytes();
  return bytes;
}

Model Model::converted(DType dtype) const {
  Model model(config_);
  model.allocate(std::vector(parameters_.size(), dtype));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    convert(parameters_[i].value, model.parameters_[i].value);
  }
  return model;
}

Model Model::zeros_on_gpu(const ModelConfig& config, DType matrices, Device gpu) {
  Model model(config);
  std::vector<DType> dtypes;
  for (const Parameter& parameter : model.parameters_) {
    dtypes.push_back(parameter.spec.is_matrix() ? matrices : DType::kF32);
  }
  model.allocate(dtypes, gpu);
  return model;
}

Model Model::on_gpu(DType matrices, Device gpu) const {
  assert(device_ == Device::kCpu);
  Model model = zeros_on_gpu(config_, matrices, gpu);
  std::vector<std::byte> converted;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor &from = parameters_[i].value, &to = model.parameters_[i].value;
    if (from.dtype == to.dtype) {
      copy_bytes(to.data, from.data, to.bytes());
      continue;
    }
    converted.resize(to.bytes());
    convert(from, {converted.data(), to.dtype, to.shape});
    copy_bytes(to.data, converted.data(), to.bytes());
  }
  return model;
}

DType Model::activation_type() const {
  return device_ == Device::kCuda ? parameters_.back().value.dtype : DType::kF32;
}

Tensor Model::forward(Context& ctx, const PlacedBatch& batch, const ForwardOptions& options) const {
  assert(!ctx.recording() || options.state_in == nullptr || options.state_in != options.state_out);
  return network_->forward(ctx, batch, options);
}

Tensor Model::output_norm(Context& ctx, const Tensor& x) const {
  // The last three parameters of every generation are the output norm and the head.
  const size_t count = parameters_.size();
  return layer_norm(ctx, x, parameters_[count - 3], parameters_[count - 2], config_.norm_epsilon);
}

Tensor Model::logits(Context& ctx, const Tensor& x, Mirrored<int32_t> rows, int64_t count) const {
  assert(!ctx.recording());
  bool all = count == x.rows();
  for (int64_t i = 0; i < count && all; ++i) all = rows[i] == i;
  // The embedding's rows of a table serve here, too: the residual stream is the table.
  const Tensor chosen = all ? x : embedding(ctx, rows, count, x);
  return linear_as(ctx, ctx.wide_dtype(), output_norm(ctx, chosen), parameters_.back().weight());
}

void Model::prepare_training(bool low) {
  int64_t elements = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    // Negative, so that no activation has it.
    parameters_[i].value.id = -static_cast<int64_t>(i) - 1;
    if (low && parameters_[i].spec.is_matrix() && parameters_[i].spec.name != "emb.weight") {
      elements += parameters_[i].room();
    }
  }
  if (!low) return;
  const bool planned = memory_.data() == nullptr;
  if (!planned) low_memory_ = Memory(elements * size_of(DType::kBF16), memory_of(device_));
  // A planned model's copies are never touched, but must not look absent.
  auto* next = planned ? reinterpret_cast<BFloat16*>(Arena::kAlignment)
                       : static_cast<BFloat16*>(low_memory_.data());
  for (Parameter& parameter : parameters_) {
    if (!parameter.spec.is_matrix() || parameter.spec.name == "emb.weight") continue;
    parameter.low = {next, DType::kBF16, parameter.value.shape};
    next += parameter.room();
  }
  refresh_low();
}

void Model::refresh_low() {
  std::vector<std::byte> master, low;
  for (const Parameter& parameter : parameters_) {
    if (!parameter.low || !parameter.value) continue;
    if (device_ == Device::kCpu) {
      convert(parameter.value, parameter.low);
      continue;
    }
    master.resize(parameter.value.bytes());
    low.resize(parameter.low.bytes());
    copy_bytes(master.data(), parameter.value.data, parameter.value.bytes());
    convert({master.data(), parameter.value.dtype, parameter.value.shape},
            {low.data(), DType::kBF16, parameter.low.shape});
    copy_bytes(parameter.low.data, low.data(), parameter.low.bytes());
  }
}

double forward_flops_per_token(const Model& model) {
  double elements = 0;
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.spec.is_matrix() && parameter.spec.name != "emb.weight") {
      elements += static_cast<double>(parameter.value.count());
    }
  }
  return 2 * elements;
}

}  // namespace rookery
