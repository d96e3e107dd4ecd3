// A checkpoint of a fresh model, to train from or to compare programs with.
#pragma once

#include <filesystem>

#include "core/threads.h"
#include "models/load.h"

namespace rookery {

// Writes a safetensors file with matrices in F32, F16 or BF16 and vectors in F32; its metadata has
// scheme and seed, and with 256 ids the tokenizer "bytes". Returns the model that was written.
// Throws Error if the file cannot be written.
Model write_fresh_model(const std::filesystem::path& path, const ModelConfig& config,
                        const InitOptions& init, DType matrices, ThreadPool& pool);

}  // namespace rookery
