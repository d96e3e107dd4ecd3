// A model from a checkpoint of any format: where every command, and any other program, begins.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/context.h"
#include "formats/tensor_source.h"
#include "models/load.h"

namespace rookery {

struct LoadedModel {
  std::filesystem::path file;
  std::string format;  // "safetensors", ...
  std::map<std::string, std::string> metadata;
  std::unique_ptr<Model> model;
};

// Loads the model at `path`, a file or a folder (find_model_file()); training state beside the
// weights is left out.
//
// On a GPU matrices are F32 or BF16: as stored means F32 for a float32 model and BF16 for the
// others. Throws Error for F16 there, and for files that cannot be read or hold no model.
LoadedModel load_model(const std::string& path, MatrixType type, Device device = Device::kCpu);
// The same without numbers: plan_from_tensors().
LoadedModel look_at_model(const std::string& path);

// The tensors of a file that belong to a model: not those of an optimizer. They live as long as
// `source`.
std::vector<NamedTensor> model_tensors(const TensorSource& source);

}  // namespace rookery
