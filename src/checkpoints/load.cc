#include "checkpoints/load.h"

#include <functional>
#include <span>

#include "checkpoints/find.h"

namespace rookery {
namespace {

// `make` turns the tensors and the epsilon of the norms into a model.
LoadedModel open_model(
    const std::string& path,
    const std::function<Model(std::span<const NamedTensor> tensors, float epsilon)>& make) {
  LoadedModel loaded;
  loaded.file = find_model_file(path);
  try {
    const TensorSource source = open_checkpoint(loaded.file);
    loaded.format = source.format;
    loaded.metadata = source.metadata;
    loaded.model = std::make_unique<Model>(make(model_tensors(source), source.norm_epsilon));
  } catch (const Error& error) {
    fail("cannot load '{}': {}", loaded.file.string(), error.what());
  }
  return loaded;
}

}  // namespace

LoadedModel load_model(const std::string& path, MatrixType type, Device device) {
  if (device != Device::kCuda) {
    return open_model(path, [type](std::span<const NamedTensor> tensors, float epsilon) {
      return model_from_tensors(tensors, type, epsilon);
    });
  }
  check(type != MatrixType::kF16) ||
      fail("matrices cannot be f16 on a GPU: expected f32, bf16, or as they are stored");
  return open_model(path, [type, device](std::span<const NamedTensor> tensors, float epsilon) {
    const Model model = model_from_tensors(tensors, type, epsilon);
    return model.on_gpu(model.head().value.dtype == DType::kF32 ? DType::kF32 : DType::kBF16,
                        device);
  });
}

LoadedModel look_at_model(const std::string& path) { return open_model(path, plan_from_tensors); }

std::vector<NamedTensor> model_tensors(const TensorSource& source) {
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : source.tensors) {
    if (tensor.name.starts_with("optimizer.")) continue;
    tensors.push_back(
        {tensor.name, {const_cast<void*>(tensor.data), tensor.dtype, tensor.shape}, tensor.make});
  }
  return tensors;
}

}  // namespace rookery
