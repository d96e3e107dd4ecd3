#include "models/load.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/convert.h"
#include "core/error.h"
#include "models/detect.h"

namespace rookery {
namespace {

Shape without_units(const Shape& shape) {
  Shape result;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] != 1) result.push_back(shape[axis]);
  }
  return result;
}

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
  if (spec.role == Role::kVector) return DType::kF32;
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

// The layer in a name such as "blocks.3.att.key.weight"; -1 if it has none.
int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blocks.";
  int64_t layer = -1;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  // Far more than can be; one more is a number, too.
  return std::min(layer, int64_t{1} << 32);
}

// Exchanges the last two sizes of `from`; `to` has room for as much.
void transpose(const TensorView& from, void* to) {
  const int rank = from.shape.rank();
  const int64_t rows = from.shape[rank - 2], cols = from.shape[rank - 1],
                size = size_of(from.dtype);
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(to);
  for (int64_t first = 0; first < from.count(); first += rows * cols) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        std::memcpy(target + (first + j * rows + i) * size, source + (first + i * cols + j) * size,
                    static_cast<size_t>(size));
      }
    }
  }
}

}  // namespace

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

void read_parameter(const Parameter& parameter, const NamedTensor& tensor, void* scratch) {
  const bool transposed = parameter.spec.stored == Stored::kTransposed;
  TensorView stored = tensor.view;
  stored.shape = parameter.spec.stored_shape();
  TensorView to = parameter.value;
  std::vector<std::byte> staged(transposed ? static_cast<size_t>(to.bytes()) : 0);
  if (transposed) to = {staged.data(), to.dtype, stored.shape};
  if (stored) {
    convert(stored, to);
  } else {
    assert(tensor.make);
    const bool in_place = stored.dtype == to.dtype;
    stored.data = in_place ? to.data : scratch;
    tensor.make(stored.data);
    if (!in_place) convert(stored, to);
  }
  if (transposed) transpose(to, parameter.value.data);
}

ModelConfig config_from_tensors(std::span<const NamedTensor> tensors,
                                const NormEpsilons& epsilons) {
  ModelConfig config{.epsilons = epsilons};
  std::vector<TensorInfo> infos;
  StoredShapes shapes;
  for (const NamedTensor& tensor : tensors) {
    infos.push_back({tensor.name, tensor.view.shape});
    shapes.add(tensor.name, tensor.view.shape);
    config.layers = std::max(config.layers, layer_of(tensor.name) + 1);
  }
  config.generation = detect_generation(infos);
  const Generation& generation = find_generation(config.generation);
  config.vocabulary = shapes.size("emb.weight", 0);
  config.width = shapes.size("emb.weight", 1);
  generation.read_sizes(shapes, config);
  // Each block is at least one tensor, so that a name such as blocks.999999999 builds no huge
  // table.
  check(config.layers <= static_cast<int64_t>(tensors.size())) ||
      fail("a tensor of block {} in a checkpoint of {} tensors: the blocks between are missing",
           config.layers - 1, tensors.size());
  return config;
}

Model plan_from_tensors(std::span<const NamedTensor> tensors, const NormEpsilons& epsilons) {
  const ModelConfig config = config_from_tensors(tensors, epsilons);
  Model model = Model::planned(config);
  const TensorsByName sources = by_name(tensors);
  for (const Parameter& parameter : model.parameters()) {
    const std::string& name = parameter.spec.name;
    const Shape wanted = parameter.spec.stored_shape();
    const auto found = sources.find(name);
    check(found != sources.end()) ||
        fail("the checkpoint lacks '{}' {}: is it complete?", name, wanted.to_string());
    const Shape& shape = found->second->view.shape;
    check(without_units(shape) == without_units(wanted)) ||
        fail("tensor '{}' is {}, but a model of width {} needs {}", name, shape.to_string(),
             config.width, wanted.to_string());
  }
  check(sources.size() == model.parameters().size()) ||
      fail(
          "the checkpoint has {} tensors, RWKV-{} of {} layers has {}: it holds something else, "
          "too",
          sources.size(), config.generation, config.layers, model.parameters().size());
  return model;
}

Model model_from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                         const NormEpsilons& epsilons) {
  const Model plan = plan_from_tensors(tensors, epsilons);
  const TensorsByName sources = by_name(tensors);
  std::vector<DType> dtypes;
  int64_t largest = 0;  // bytes of a tensor that must be made and then converted
  for (const Parameter& parameter : plan.parameters()) {
    const NamedTensor& source = *sources.at(parameter.spec.name);
    dtypes.push_back(type_in_memory(parameter.spec, source.view.dtype, type));
    if (!source.view && dtypes.back() != source.view.dtype) {
      largest = std::max(largest, source.view.bytes());
    }
  }
  Model model = Model::unfilled(plan.config(), dtypes);
  const Memory made(largest);
  for (const Parameter& parameter : model.parameters()) {
    read_parameter(parameter, *sources.at(parameter.spec.name), made.data());
  }
  return model;
}

NamedTensor stored_tensor(const Parameter& parameter) {
  const Tensor& value = parameter.value;
  NamedTensor result{parameter.spec.name, value};
  result.view.shape = parameter.spec.stored_shape();
  const bool on_gpu = cuda::is_device_memory(value.data);
  const bool transposed = parameter.spec.stored == Stored::kTransposed;
  if (!on_gpu && !transposed) return result;
  result.view.data = nullptr;
  result.make = [&value, on_gpu, transposed](void* to) {
    if (!transposed) return copy_bytes(to, value.data, value.bytes());
    std::vector<std::byte> copy(on_gpu ? static_cast<size_t>(value.bytes()) : 0);
    if (on_gpu) copy_bytes(copy.data(), value.data, value.bytes());
    transpose({on_gpu ? copy.data() : value.data, value.dtype, value.shape}, to);
  };
  return result;
}

}  // namespace rookery
