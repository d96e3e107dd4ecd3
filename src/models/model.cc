#include "models/model.h"

#include <algorithm>
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
    check(found != shapes.end(), "the checkpoint lacks '{}': is it complete?", name);
    check(found->second->rank() == 2, "'{}' is {}, expected a matrix", name,
          found->second->to_string());
    return (*found->second)[axis];
  };
  config.vocabulary = size("emb.weight", 0);
  config.width = size("emb.weight", 1);
  config.attention_width = size("blocks.0.att.key.weight", 0);
  config.ffn_width = size("blocks.0.ffn.key.weight", 0);
  // Each block is at least one tensor, so that a name such as blocks.999999999 builds no huge
  // table.
  check(config.layers <= static_cast<int64_t>(tensors.size()),
        "a tensor of block {} in a checkpoint of {} tensors: the blocks between are missing",
        config.layers - 1, tensors.size());
  return config;
}

}  // namespace

int64_t StateLayout::add(std::string name, int64_t width, double empty) {
  items.push_back({std::move(name), width, empty, slot_size});
  slot_size += width;
  return static_cast<int64_t>(items.size()) - 1;
}

State::State(const StateLayout& layout, int64_t slots, DType dtype)
    : layout_(layout),
      slots_(slots),
      dtype_(dtype),
      memory_(slots * layout.slot_size * size_of(dtype)) {
  for (int64_t s = 0; s < slots; ++s) clear(s);
}

State& State::operator=(const State& other) {
  if (this == &other) return *this;
  layout_ = other.layout_;
  slots_ = other.slots_;
  dtype_ = other.dtype_;
  memory_ = Memory(slots_ * slot_bytes());
  if (slots_ > 0) std::memcpy(memory_.data(), other.memory_.data(), slots_ * slot_bytes());
  return *this;
}

StateView State::view(int64_t index) const {
  const StateItem& item = layout_.items[index];
  return {static_cast<char*>(memory_.data()) + item.offset * size_of(dtype_), dtype_, slots_,
          item.width, layout_.slot_size};
}

void State::clear(int64_t slot) {
  assert(slot >= 0 && slot < slots_);
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
  if (from != to) std::memcpy(slot(to).data, slot(from).data, slot_bytes());
}

void Batch::add(std::span<const int32_t> sequence, int64_t in, int64_t out) {
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  offsets.push_back(rows());
  slot_in.push_back(in);
  slot_out.push_back(out);
}

void Batch::clear() {
  tokens.clear();
  offsets.assign(1, 0);
  slot_in.clear();
  slot_out.clear();
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
            vocabulary <= kLimit,
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
    parameters_.push_back({std::move(spec), value, {}});
  }
}

void Model::allocate(const std::vector<DType>& dtypes) {
  int64_t bytes = 0;
  const auto round_up = [](int64_t x) {
    return (x + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].value.dtype = dtypes[i];
    bytes += round_up(parameters_[i].value.bytes());
  }
  memory_ = Memory(bytes);
  char* next = static_cast<char*>(memory_.data());
  for (Parameter& parameter : parameters_) {
    parameter.value.data = next;
    next += round_up(parameter.value.bytes());
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
    check(result.emplace(tensor.name, &tensor).second, "tensor '{}' occurs twice", tensor.name);
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
    check(found != sources.end(), "the checkpoint lacks '{}' {}: is it complete?",
          parameter.spec.name, parameter.spec.shape.to_string());
    const Shape& shape = found->second->view.shape;
    check(without_units(shape) == without_units(parameter.spec.shape),
          "tensor '{}' is {}, but a model of width {} needs {}", parameter.spec.name,
          shape.to_string(), model.config_.width, parameter.spec.shape.to_string());
  }
  check(sources.size() == model.parameters_.size(),
        "the checkpoint has {} tensors, RWKV-{} of {} layers has {}: it holds something else, too",
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

Tensor Model::forward(Context& ctx, const Batch& batch, const ForwardOptions& options) const {
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
  const Tensor chosen = ctx.make({static_cast<int64_t>(rows.size()), x.cols()});
  const int64_t row_bytes = x.cols() * size_of(x.dtype);
  if (ctx.device != Device::kMeta) {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(static_cast<char*>(chosen.data) + static_cast<int64_t>(i) * row_bytes,
                  static_cast<const char*>(x.data) + rows[i] * row_bytes, row_bytes);
    }
  }
  return linear(ctx, output_norm(ctx, chosen), parameters_.back().weight());
}

Tensor Model::last_logits(Context& ctx, const Batch& batch, const ForwardOptions& options) const {
  std::vector<int64_t> rows;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) rows.push_back(batch.offsets[s + 1] - 1);
  return logits(ctx, forward(ctx, batch, options), rows);
}

void Model::prepare_training(bool low) {
  int64_t elements = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    // Negative, so that no activation has it.
    parameters_[i].value.id = -static_cast<int64_t>(i) - 1;
    if (low && parameters_[i].spec.is_matrix() && parameters_[i].spec.name != "emb.weight") {
      elements += parameters_[i].value.count();
    }
  }
  if (!low) return;
  const bool planned = memory_.data() == nullptr;
  if (!planned) low_memory_ = Memory(elements * size_of(DType::kBF16));
  // A planned model's copies are never touched, but must not look absent.
  auto* next = planned ? reinterpret_cast<BFloat16*>(Arena::kAlignment)
                       : static_cast<BFloat16*>(low_memory_.data());
  for (Parameter& parameter : parameters_) {
    if (!parameter.spec.is_matrix() || parameter.spec.name == "emb.weight") continue;
    parameter.low = {next, DType::kBF16, parameter.value.shape};
    next += parameter.value.count();
  }
  refresh_low();
}

void Model::refresh_low() {
  for (const Parameter& parameter : parameters_) {
    if (parameter.low && parameter.value) convert(parameter.value, parameter.low);
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
