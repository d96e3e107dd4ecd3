#include "models/model.h"

#include <algorithm>
#include <cstddef>
#include <complex>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "core/convert.h"
#include "models/detect.h"
#include "models/rwkv4.h"
#include "ops/layer_norm/layer_norm.h"

namespace rookery {
namespace {

const Generation* const kGenerations[] = {&kRwkv4};

Shape without_units(const Shape& shape) {
  Shape result;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] != 1) result.push_back(shape[axis]);
  }
  return result;
}

ModelConfig read_config(std::span<const NamedTensor> tensors) {
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string_view, const Shape*> shapes;
  ModelConfig config;
  for (const NamedTensor& tensor : tensors) {
    infos.push_back({tensor.name, tensor.view.shape});
    shapes[tensor.name] = &tensor.view.shape;
    if (tensor.name.starts_with("blocks.")) {
      config.layers = std::max(config.layers, layer_of(tensor.name) + 1);
    }
  }
  config.generation = detect_generation(infos);
  find_generation(config.generation);
  const auto size = [&](const char* name, int axis) {
    const auto found = shapes.find(name);
    check(found != shapes.end()) || fail("the checkpoint lacks '{}': is it complete?", name);
    check(found->second->rank() == 2) ||
        fail("'{}' is {}, expected a matrix", name, found->second->to_string());
    return (*found->second)[axis];
  };
  config.vocabulary = size("emb.weight", 0);
  config.width = size("emb.weight", 1);
  config.attention_width = size("blocks.0.att.key.weight", 0);
  config.ffn_width = size("blocks.0.ffn.key.weight", 0);
  // Each block is at least one tensor, so that a name such as blocks.999999999 builds no huge
  // table.
  check(config.layers <= static_cast<int64_t>(tensors.size())) ||
      fail("a tensor of block {} in a checkpoint of {} tensors: the blocks between are missing",
           config.layers - 1, tensors.size());
  return config;
}

}  // namespace

int64_t StateLayout::add(std::string name, int64_t width, double empty) {
  items.push_back({std::move(name), width, empty, slot_size});
  slot_size += width;
  return static_cast<int64_t>(items.size()) - 1;
}

State::State(const StateLayout& layout, int64_t slots, DType dtype, Device device)
    : layout_(layout),
      slots_(slots),
      dtype_(dtype),
      memory_(slots * layout.slot_size * size_of(dtype), memory_of(device)) {
  for (int64_t s = 0; s < slots; ++s) clear(s);
}

State& State::operator=(const State& other) {
  if (this == &other) return *this;
  layout_ = other.layout_;
  slots_ = other.slots_;
  dtype_ = other.dtype_;
  if (memory_.kind() != other.memory_.kind() || memory_.bytes() != other.memory_.bytes()) {
    memory_ = Memory(slots_ * slot_bytes(), other.memory_.kind());
  }
  copy_bytes(memory_.data(), other.memory_.data(), slots_ * slot_bytes());
  return *this;
}

void State::copy_from(const State& other) {
  assert(slots_ * slot_bytes() == other.slots_ * other.slot_bytes());
  copy_bytes(memory_.data(), other.memory_.data(), slots_ * slot_bytes());
}

State State::on_host() const {
  State result(layout_, slots_, dtype_);
  result.copy_from(*this);
  return result;
}

StateView State::view(int64_t index) const {
  const StateItem& item = layout_.items[index];
  return {static_cast<char*>(memory_.data()) + item.offset * size_of(dtype_), dtype_, slots_,
          item.width, layout_.slot_size};
}

void State::clear(int64_t slot) {
  assert(slot >= 0 && slot < slots_);
  if (memory_.kind() == MemoryKind::kDevice) {
    copy_bytes(this->slot(slot).data, State(layout_, 1, dtype_).slot(0).data, slot_bytes());
    return;
  }
  for (size_t i = 0; i < layout_.items.size(); ++i) {
    const StateItem& item = layout_.items[i];
    const StateView items = view(static_cast<int64_t>(i));
    switch (dtype_) {
      case DType::kF64:
        std::fill_n(items.slot<double>(slot), item.width, item.empty);
        break;
      case DType::kC128:
        std::fill_n(items.slot<std::complex<double>>(slot), item.width, item.empty);
        break;
      default:
        std::fill_n(items.slot<float>(slot), item.width, static_cast<float>(item.empty));
    }
  }
}

TensorView State::slot(int64_t slot) const {
  assert(slot >= 0 && slot < slots_);
  return {static_cast<char*>(memory_.data()) + slot * slot_bytes(), dtype_, {layout_.slot_size}};
}

void State::copy_slot(int64_t from, int64_t to) {
  if (from != to) copy_bytes(slot(to).data, slot(from).data, slot_bytes());
}

void Batch::add(std::span<const int32_t> sequence, int64_t in, int64_t out) {
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  offsets.push_back(rows());
  slot_in.push_back(in);
  slot_out.push_back(out);
}

void Batch::clear() {
  tokens.clear();
  targets.clear();
  offsets.assign(1, 0);
  slot_in.clear();
  slot_out.clear();
  window = 0;
}

bool PlacedBatch::stage(const Batch& batch, int64_t vocabulary, Device device) {
  for (int64_t t = 0; t < batch.rows(); ++t) {
    check(batch.tokens[t] >= 0 && batch.tokens[t] < vocabulary) ||
        fail("token {} at position {} is outside the vocabulary of {} (0 to {})", batch.tokens[t],
             t, vocabulary, vocabulary - 1);
    if (batch.targets.empty()) continue;
    check(batch.targets[t] < vocabulary) ||
        fail("target token {} at position {} is not below the vocabulary's size {}",
             batch.targets[t], t, vocabulary);
  }
  const int64_t rows = batch.rows(), count = batch.count();
  bool moved = rows != rows_ || device != device_;
  if (moved || count > capacity_) {
    // Room for twice as many sequences: where documents end differs from batch to batch.
    capacity_ = std::max<int64_t>(2 * count, 16);
    moved = true;
  }
  rows_ = rows;
  device_ = device;
  if (device == Device::kMeta) device = Device::kCpu;
  int64_t end = 0;
  const auto take = [&](int64_t size) { return Mirror::advance(end, size); };
  const int64_t tokens = take(rows * 4), targets = take(rows * 4), of_row = take(rows * 4);
  const int64_t offsets = take((capacity_ + 1) * 8), in = take(capacity_ * 8);
  const int64_t out = take(capacity_ * 8);
  bytes_ = end;
  moved |= mirror_.reserve(device, end);
  std::copy(batch.tokens.begin(), batch.tokens.end(), mirror_.at<int32_t>(tokens));
  std::copy(batch.targets.begin(), batch.targets.end(), mirror_.at<int32_t>(targets));
  for (int64_t s = 0; s < count; ++s) {
    std::fill(mirror_.at<int32_t>(of_row) + batch.offsets[s],
              mirror_.at<int32_t>(of_row) + batch.offsets[s + 1], static_cast<int32_t>(s));
  }
  std::copy(batch.offsets.begin(), batch.offsets.end(), mirror_.at<int64_t>(offsets));
  std::copy(batch.slot_in.begin(), batch.slot_in.end(), mirror_.at<int64_t>(in));
  std::copy(batch.slot_out.begin(), batch.slot_out.end(), mirror_.at<int64_t>(out));
  tokens_ = mirror_.mirrored<int32_t>(tokens);
  targets_ = mirror_.mirrored<int32_t>(targets);
  sequences_ = {count,
                mirror_.mirrored<int64_t>(offsets),
                mirror_.mirrored<int64_t>(in),
                mirror_.mirrored<int64_t>(out),
                mirror_.mirrored<int32_t>(of_row).device,
                batch.window};
  return moved;
}

void PlacedBatch::send() const {
  if (device_ == Device::kCuda) mirror_.send(bytes_);
}

const Generation& find_generation(std::string_view name) {
  for (const Generation* generation : kGenerations) {
    if (generation->name == name) return *generation;
  }
  std::string known;
  for (const Generation* generation : kGenerations) {
    known += (known.empty() ? "" : ", ") + std::string(generation->name);
  }
  fail("RWKV generation '{}' is not supported by this version; it runs: {}", name, known);
}

bool has_generation(std::string_view name) {
  return std::any_of(std::begin(kGenerations), std::end(kGenerations),
                     [&](const Generation* g) { return g->name == name; });
}

ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary) {
  find_generation(generation);
  constexpr int64_t kLimit = int64_t{1} << 24;
  check(layers > 0 && layers <= 4096 && width > 0 && width <= kLimit && vocabulary > 0 &&
        vocabulary <= kLimit) ||
      fail(
          "a model of {} layers, width {}, vocabulary {} cannot be built: layers should be 1 to "
          "4096, width "
          "and vocabulary 1 to {}",
          layers, width, vocabulary, kLimit);
  return {.generation = std::string(generation),
          .layers = layers,
          .width = width,
          .attention_width = width,
          .ffn_width = 4 * width,
          .vocabulary = vocabulary};
}

MatrixType matrix_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return MatrixType::kF16;
    case DType::kBF16:
      return MatrixType::kBF16;
    default:
      return MatrixType::kF32;
  }
}

Model::Model(const ModelConfig& config) : config_(config) {
  const Generation& generation = find_generation(config.generation);
  state_layout_ = generation.state_layout(config);
  for (ParameterSpec& spec : generation.parameters(config)) {
    Tensor value;
    value.shape = spec.shape;
    parameters_.push_back({.spec = std::move(spec), .value = value});
  }
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

void Model::bind() { network_ = find_generation(config_.generation).make(config_, parameters_); }

Model Model::initialised(const ModelConfig& config, const InitOptions& options, ThreadPool& pool) {
  Model model(config);
  model.allocate(std::vector(model.parameters_.size(), DType::kF32));
  for (const Parameter& parameter : model.parameters_) {
    initialise(parameter.spec, config, options, parameter.value, pool);
  }
  model.bind();
  return model;
}

Model Model::planned(const ModelConfig& config) {
  Model model(config);
  model.bind();
  return model;
}

namespace {

using TensorsByName = std::unordered_map<std::string_view, const NamedTensor*>;

TensorsByName by_name(std::span<const NamedTensor> tensors) {
  TensorsByName result;
  for (const NamedTensor& tensor : tensors) {
    check(result.emplace(tensor.name, &tensor).second) ||
        fail("tensor '{}' occurs twice", tensor.name);
  }
  return result;
}

DType type_in_memory(const ParameterSpec& spec, DType stored, MatrixType type) {
  if (!spec.is_matrix()) return DType::kF32;
  switch (type) {
    case MatrixType::kAsStored:
      return stored;
    case MatrixType::kF16:
      return DType::kF16;
    case MatrixType::kBF16:
      return DType::kBF16;
    case MatrixType::kF32:
      break;
  }
  return DType::kF32;
}

}  // namespace

Model Model::planned_for(std::span<const NamedTensor> tensors, float norm_epsilon) {
  ModelConfig config = read_config(tensors);
  config.norm_epsilon = norm_epsilon;
  Model model(config);
  const TensorsByName sources = by_name(tensors);
  for (const Parameter& parameter : model.parameters_) {
    const auto found = sources.find(parameter.spec.name);
    check(found != sources.end()) || fail("the checkpoint lacks '{}' {}: is it complete?",
                                          parameter.spec.name, parameter.spec.shape.to_string());
    const Shape& shape = found->second->view.shape;
    check(without_units(shape) == without_units(parameter.spec.shape)) ||
        fail("tensor '{}' is {}, but a model of width {} needs {}", parameter.spec.name,
             shape.to_string(), model.config_.width, parameter.spec.shape.to_string());
  }
  check(sources.size() == model.parameters_.size()) ||
      fail(
          "the checkpoint has {} tensors, RWKV-{} of {} layers has {}: it holds something else, "
          "too",
          sources.size(), model.config_.generation, model.config_.layers, model.parameters_.size());
  model.bind();
  return model;
}

Model Model::from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                          float norm_epsilon) {
  Model model = planned_for(tensors, norm_epsilon);
  const TensorsByName sources = by_name(tensors);
  std::vector<DType> dtypes;
  int64_t largest = 0;  // bytes of a tensor that must be made and then converted
  for (const Parameter& parameter : model.parameters_) {
    const NamedTensor& source = *sources.at(parameter.spec.name);
    dtypes.push_back(type_in_memory(parameter.spec, source.view.dtype, type));
    if (!source.view && dtypes.back() != source.view.dtype) {
      largest = std::max(largest, source.view.bytes());
    }
  }
  model.allocate(dtypes);
  const Memory made(largest);
  for (const Parameter& parameter : model.parameters_) {
    const NamedTensor& source = *sources.at(parameter.spec.name);
    TensorView view = source.view;
    if (!view) {
      assert(source.make);
      const bool in_place = view.dtype == parameter.value.dtype;
      view.data = in_place ? parameter.value.data : made.data();
      source.make(view.data);
      if (in_place) continue;
    }
    convert(view, parameter.value);
  }
  model.bind();
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
  model.bind();
  return model;
}

Model Model::zeros_on_gpu(const ModelConfig& config, DType matrices) {
  Model model(config);
  std::vector<DType> dtypes;
  for (const Parameter& parameter : model.parameters_) {
    dtypes.push_back(parameter.spec.is_matrix() ? matrices : DType::kF32);
  }
  model.allocate(dtypes, Device::kCuda);
  model.bind();
  return model;
}

Model Model::on_gpu(DType matrices) const {
  assert(device_ == Device::kCpu);
  Model model = zeros_on_gpu(config_, matrices);
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

Tensor Model::logits(Context& ctx, const Tensor& x, std::span<const int64_t> rows) const {
  assert(!ctx.recording());
  const int64_t count = static_cast<int64_t>(rows.size());
  const int64_t row_bytes = x.cols() * size_of(x.dtype);
  const bool all =
      count == x.rows() && (count == 0 || (rows[0] == 0 && rows[count - 1] == count - 1));
  if (all && std::is_sorted(rows.begin(), rows.end())) {
    return linear_as(ctx, ctx.wide_dtype(), output_norm(ctx, x), parameters_.back().weight());
  }
  const Tensor chosen = ctx.make({count, x.cols()}, x.dtype);
  for (int64_t i = 0, run = 0; i < count; i += run) {  // neighbours together
    for (run = 1; i + run < count && rows[i + run] == rows[i] + run;) ++run;
    ctx.copy(static_cast<char*>(chosen.data) + i * row_bytes,
             static_cast<const char*>(x.data) + rows[i] * row_bytes, run * row_bytes);
  }
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
