// RWKV-4 as the transformers library stores it: a folder with config.json and the weights in
// model.safetensors or pytorch_model.bin, whole or in shards that an index names. The tensors hold
// the numbers of the public training code under other names.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "formats/tensor_source.h"

namespace rookery {

inline constexpr char kConfigFile[] = "config.json";
// Beside the weights: a tokenizer of the tokenizers library, or the World vocabulary.
inline constexpr char kTokenizerFile[] = "tokenizer.json";
inline constexpr char kVocabularyFile[] = "rwkv_vocab_v20230424.txt";
// The weights; the name of a set's index is that of the whole file and kIndexEnding.
inline constexpr char kSafetensorsFile[] = "model.safetensors";
inline constexpr char kBinFile[] = "pytorch_model.bin";
inline constexpr char kIndexEnding[] = ".index.json";

// Opens such a folder. Of the shards only those in the folder itself are opened, each once. A text
// of a tokenizer beside the weights becomes the metadata "tokenizer". Throws Error for models that
// are not RWKV-4, for a config.json whose sizes are not those of the tensors, and for an index that
// does not agree with its shards. Names are as they stand in the files.
TensorSource open_huggingface_folder(const std::filesystem::path& folder);

// Gives tensors with the library's names those of the training code, in whatever file they were.
// Throws Error for the library's names of generations 5 and 6. `path` names the model in messages.
void rename_huggingface_tensors(TensorSource& source, const std::string& path);

// "rwkv.blocks.3.attention.key.weight" from "blocks.3.att.key.weight"; nothing if RWKV-4 has no
// such parameter.
std::optional<std::string> huggingface_name(std::string_view name);

}  // namespace rookery
