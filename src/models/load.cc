#include "models/load.h"

#include <algorithm>
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

ModelConfig config_from_tensors(std::span<const NamedTensor> tensors) {
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

Model plan_from_tensors(std::span<const NamedTensor> tensors, float norm_epsilon) {
  ModelConfig config = config_from_tensors(tensors);
  config.norm_epsilon = norm_epsilon;
  Model model = Model::planned(config);
  const TensorsByName sources = by_name(tensors);
  for (const Parameter& parameter : model.parameters()) {
    const auto found = sources.find(parameter.spec.name);
    check(found != sources.end()) || fail("the checkpoint lacks '{}' {}: is it complete?",
                                          parameter.spec.name, parameter.spec.shape.to_string());
    const Shape& shape = found->second->view.shape;
    check(without_units(shape) == without_units(parameter.spec.shape)) ||
        fail("tensor '{}' is {}, but a model of width {} needs {}", parameter.spec.name,
             shape.to_string(), config.width, parameter.spec.shape.to_string());
  }
  check(sources.size() == model.parameters().size()) ||
      fail(
          "the checkpoint has {} tensors, RWKV-{} of {} layers has {}: it holds something else, "
          "too",
          sources.size(), config.generation, config.layers, model.parameters().size());
  return model;
}

Model model_from_tensors(std::span<const NamedTensor> tensors, MatrixType type,
                         float norm_epsilon) {
  const Model plan = plan_from_tensors(tensors, norm_epsilon);
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
  return model;
}

}  // namespace rookery
