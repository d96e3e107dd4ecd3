#include "checkpoints/fresh_model.h"

#include <vector>

#include <nlohmann/json.hpp>

#include "formats/safetensors.h"

namespace rookery {

Model write_fresh_model(const std::filesystem::path& path, const ModelConfig& config,
                        const InitOptions& init, DType matrices, ThreadPool& pool) {
  Model model = Model::initialised(config, init, pool);
  if (matrices != DType::kF32) {
    std::vector<NamedTensor> tensors;
    for (const Parameter& parameter : model.parameters()) {
      tensors.push_back({parameter.spec.name, parameter.value});
    }
    model = model_from_tensors(tensors, matrix_type(matrices));
  }
  std::vector<StoredTensor> tensors;
  for (const Parameter& parameter : model.parameters()) {
    const Tensor& value = parameter.value;
    tensors.push_back({parameter.spec.name, value.dtype, value.shape, value.data});
  }
  nlohmann::json about = {
      {"generation", config.generation}, {"scheme", init.scheme}, {"seed", init.seed}};
  if (config.vocabulary == 256) about["tokenizer"] = "bytes";
  write_safetensors(path, tensors, {{"rookery", about.dump()}});
  return model;
}

}  // namespace rookery
