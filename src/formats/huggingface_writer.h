// Writes RWKV-4 as the transformers library stores it (huggingface.h says how).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "formats/tensor_writer.h"

namespace rookery {

struct HuggingfaceOptions {
  int64_t context_length = 1024;  // for config.json; RWKV itself has no limit
  float norm_epsilon = 1e-5f;
  // A file of weights takes no more tensors once it would pass this; a tensor is never split.
  int64_t shard_bytes = 5'000'000'000;
};

// Throws Error unless a folder can be made there: nothing, or an empty folder, at a place whose
// parent is a folder. What lies in a folder is never replaced.
void require_new_folder(const std::filesystem::path& folder);

// Makes the folder, all or nothing: config.json, model.safetensors or shards of it with their
// index, and the tokenizer if the metadata has a text of one. Tensors have the names of the
// training code, and the shapes. Throws Error if the folder exists and is not empty, if it cannot
// be written, and for tensors that RWKV-4 has not.
void write_huggingface(const std::filesystem::path& folder, std::span<const StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const HuggingfaceOptions& options, const WriteProgress& progress = {});

// The name that a tokenizer's text has as a file beside a model: tokenizer.json for the JSON of the
// tokenizers library, rwkv_vocab_v20230424.txt for a vocabulary; null for one that is only a word,
// such as "bytes".
const char* tokenizer_file_name(std::string_view definition);

}  // namespace rookery
