// Checkpoints of training: a safetensors file with the weights under their public names, Adam's
// moments as optimizer.m.* and optimizer.v.*, and in its metadata, as JSON under "rookery",
// everything else a run needs to go on bit for bit. Under "tokenizer" stands what the tokenizer is
// made of. Written aside, then renamed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "training/trainer.h"

namespace rookery {

// What a checkpoint says beside its tensors.
struct RunState {
  TrainOptions options;
  int64_t step = 0;
  int64_t tokens_seen = 0;
  std::string tokenizer = "bytes";             // its name; empty: unknown
  std::string tokenizer_definition = "bytes";  // Tokenizer::definition(), or empty
  std::vector<std::string> data_files;
  uint64_t data_hash = 0;                     // of tokens and mask (data/training_data.h)
  std::vector<std::string> validation_files;  // none: a part of the data is held out
  int64_t checkpoint_every = 0, keep = 0, validate_every = 0;  // the rest of the run's habits
  double validation_loss = 0;  // the last one, nats per token; 0 before the first
};

nlohmann::json to_json(const TrainOptions& options);
// Throws Error for anything that to_json does not write.
TrainOptions train_options_from_json(const nlohmann::json& json);
// Of the sizes of the model and the options: on one text, machine and thread count, two runs of one
// hash make the same numbers.
uint64_t configuration_hash(const ModelConfig& config, const TrainOptions& options);

// Writes the checkpoint of the trainer's step, and then removes all but the last `keep` (0: none is
// removed). Returns its path.
std::filesystem::path save_checkpoint(const std::filesystem::path& folder, const Trainer& trainer,
                                      const RunState& run);
// Weights only: what others load.
void save_model(const std::filesystem::path& path, const Model& model, const RunState& run);

struct Resumed {
  RunState run;
  std::unique_ptr<Trainer> trainer;
};
// Throws Error when the file is no whole checkpoint of training.
Resumed load_checkpoint(const std::filesystem::path& path, ThreadPool& pool,
                        Device device = Device::kCpu);

}  // namespace rookery
