#include "checkpoints/fresh_model.h"

#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/load.h"
#include "formats/safetensors.h"

namespace rookery {

Model write_fresh_model(const std::filesystem::path& path, const ModelConfig& config,
                        const InitOptions& init, DType matrices, ThreadPool& pool) {
  Model model = Model::initialised(config, init, pool);
  if (matrices != DType::kF32) {
    std::vector<NamedTensor> tensors;
    for (const Parameter& parameter : model.parameters()) {
      tensors.push_back(stored_tensor(parameter));
    }
    model = model_from_tensors(tensors, matrix_type(matrices));
  }
  nlohmann::json about = {
      {"generation", config.generation}, {"scheme", init.scheme}, {"seed", init.seed}};
  if (config.vocabulary == 256) about["tokenizer"] = "bytes";
  write_safetensors(path, stored_tensors(model), {{"rookery", about.dump()}});
  return model;
}

}  // namespace rookery
