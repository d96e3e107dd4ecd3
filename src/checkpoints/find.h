// Checkpoints by their place: how those of a training run are called, and which file of a folder
// holds the model that is meant.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rookery {

// <folder>/checkpoint-00001000.safetensors
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step);
// The checkpoints of a run's folder, oldest first; none if the folder does not exist.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

// The step in a checkpoint's name, or -1 for a file of another name.
int64_t step_of_checkpoint(const std::filesystem::path& path);
// The step after which training wrote this model, or 0 if the file does not say. Throws Error as
// open_checkpoint() does.
int64_t step_of_model(const std::filesystem::path& path);

// A model file, or a folder that holds one: model.safetensors, or the newest
// checkpoint-*.safetensors of a training run, or the only file that could be a model. A folder with
// a config.json is itself the model (formats/huggingface.h). Throws Error when the folder holds no
// model, or several.
std::filesystem::path find_model_file(const std::string& path);

}  // namespace rookery
