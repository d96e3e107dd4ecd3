#include "formats/huggingface.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "io/json.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// For messages: ASCII, whatever the text holds.
std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace);
}

struct NamePair {
  std::string_view theirs, ours;
};

constexpr NamePair kOutside[] = {
    {"rwkv.embeddings.weight", "emb.weight"},
    {"rwkv.ln_out.weight", "ln_out.weight"},
    {"rwkv.ln_out.bias", "ln_out.bias"},
    {"head.weight", "head.weight"},
};

// After "rwkv.blocks.N." and "blocks.N.".
constexpr std::string_view kTheirBlocks = "rwkv.blocks.", kOurBlocks = "blocks.";
constexpr NamePair kInBlock[] = {
    {"pre_ln.weight", "ln0.weight"},
    {"pre_ln.bias", "ln0.bias"},
    {"ln1.weight", "ln1.weight"},
    {"ln1.bias", "ln1.bias"},
    {"ln2.weight", "ln2.weight"},
    {"ln2.bias", "ln2.bias"},
    {"attention.time_decay", "att.time_decay"},
    {"attention.time_first", "att.time_first"},
    {"attention.time_mix_key", "att.time_mix_k"},
    {"attention.time_mix_value", "att.time_mix_v"},
    {"attention.time_mix_receptance", "att.time_mix_r"},
    {"attention.key.weight", "att.key.weight"},
    {"attention.value.weight", "att.value.weight"},
    {"attention.receptance.weight", "att.receptance.weight"},
    {"attention.output.weight", "att.output.weight"},
    {"feed_forward.time_mix_key", "ffn.time_mix_k"},
    {"feed_forward.time_mix_receptance", "ffn.time_mix_r"},
    {"feed_forward.key.weight", "ffn.key.weight"},
    {"feed_forward.receptance.weight", "ffn.receptance.weight"},
    {"feed_forward.value.weight", "ffn.value.weight"},
};

// Parts of names that the later generations have and RWKV-4 has not.
constexpr std::string_view kLaterGenerations[] = {
    ".attention.ln_x.",      ".attention.gate.",       ".attention.time_maa",
    ".attention.time_faaaa", ".feed_forward.time_maa", ".attention.time_mix_gate",
};

// `name` with its prefix `from` and the rest after the block's number replaced; empty if it has
// none.
std::string in_other_block(std::string_view name, std::string_view from, std::string_view to,
                           std::string_view NamePair::*known, std::string_view NamePair::*wanted) {
  if (!name.starts_with(from)) return {};
  const size_t dot = name.find('.', from.size());
  if (dot == std::string_view::npos) return {};
  const std::string_view number = name.substr(from.size(), dot - from.size());
  for (const NamePair& pair : kInBlock) {
    if (name.substr(dot + 1) == pair.*known) {
      return fmt::format("{}{}.{}", to, number, pair.*wanted);
    }
  }
  return {};
}

std::string our_name(std::string_view name) {
  for (const NamePair& pair : kOutside) {
    if (pair.theirs == name) return std::string(pair.ours);
  }
  return in_other_block(name, kTheirBlocks, kOurBlocks, &NamePair::theirs, &NamePair::ours);
}

// -------------------------------------------------------------------------------------------------
// The weights.

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The names of a set's shards, each with the tensors that it should hold.
std::map<std::string, std::set<std::string>> read_index(const fs::path& path) {
  const json index = read_json_file(path);
  const auto map = index.find("weight_map");
  check(map != index.end() && map->is_object() && !map->empty()) ||
      fail(
          "'{}' has no weight_map that names the shard of each tensor: the file is damaged, "
          "download it again",
          path.string());
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const bool is_text = shard.is_string();
    const std::string name = is_text ? shard.get<std::string>() : std::string();
    check(is_text && !name.empty() && name.find('/') == std::string::npos &&
          name.find("..") == std::string::npos && name != "." &&
          name.find('\0') == std::string::npos && name != path.filename()) ||
        fail(
            "'{}' puts the tensor {} into {}: expected the plain name of a file in the same "
            "folder; the file is damaged or not to be trusted",
            path.string(), tensor, shown(shard));
    shards[name].insert(tensor);
  }
  return shards;
}

TensorSource open_shards(const fs::path& index) {
  TensorSource all;
  for (const auto& [name, tensors] : read_index(index)) {
    const fs::path path = index.parent_path() / name;
    TensorSource shard = open_file(path);
    std::set<std::string> found;
    for (const StoredTensor& tensor : shard.tensors) {
      check(tensors.contains(tensor.name)) ||
          fail(
              "the shard '{}' holds {}, which '{}' does not place there: they belong to different "
              "models, download all again",
              path.string(), tensor.name, index.string());
      found.insert(tensor.name);
    }
    for (const std::string& tensor : tensors) {
      check(found.contains(tensor)) || fail(
                                           "the shard '{}' lacks {}, which '{}' places there: they "
                                           "belong to different models, download all again",
                                           path.string(), tensor, index.string());
    }
    all.join(std::move(shard));
  }
  return all;
}

TensorSource open_weights(const fs::path& folder) {
  for (const char* name : {kSafetensorsFile, kBinFile}) {
    if (is_there(folder / name)) return open_file(folder / name);
    const fs::path index = folder / (std::string(name) + kIndexEnding);
    if (is_there(index)) return open_shards(index);
  }
  fail(
      "the folder '{}' has a config.json and no weights: expected {}, {} or the index of a set of "
      "shards; download them, too",
      folder.string(), kSafetensorsFile, kBinFile);
}

// -------------------------------------------------------------------------------------------------
// config.json.

class Config {
 public:
  explicit Config(const fs::path& path) : path_(path.string()), json_(read_json_file(path)) {}

  void require_rwkv4() const {
    const auto type = json_.find("model_type");
    check(type != json_.end() && type->is_string()) ||
        fail("'{}' has no model_type: expected \"rwkv\", a model of RWKV-4", path_);
    const std::string name = type->get<std::string>();
    if (name == "rwkv") return;
    check(name.find("rwkv") == std::string::npos) ||
        fail(
            "'{}' has the model_type {}, a later generation: of Hugging Face folders RWKV-4 "
            "(\"rwkv\") is read; give the .pth file of the same model",
            path_, shown(*type));
    fail("'{}' has the model_type {}: expected \"rwkv\", a model of RWKV-4", path_, shown(*type));
  }

  // Throws unless the size that this key claims, if it claims one, is `actual`.
  void require_size(const char* key, int64_t actual) const {
    const auto value = json_.find(key);
    if (value == json_.end() || value->is_null()) return;
    check(whole_number(*value) == actual) || fail(
                                                 "'{}' claims {} {}, the tensors have {}: they "
                                                 "belong to different models, download all again",
                                                 path_, key, shown(*value), actual);
  }

  bool flag(const char* key) const {
    const auto value = json_.find(key);
    if (value == json_.end() || value->is_null()) return false;
    check(value->is_boolean()) ||
        fail("'{}': expected true or false for {}, got {}", path_, key, shown(*value));
    return value->get<bool>();
  }

  float epsilon(float usual) const {
    const auto value = json_.find("layer_norm_epsilon");
    if (value == json_.end() || value->is_null()) return usual;
    const double number = value->is_number() ? value->get<double>() : 0;
    check(number >= 1e-30 && number < 1) ||
        fail("'{}' claims layer_norm_epsilon {}: expected a number between 0 and 1", path_,
             shown(*value));
    return static_cast<float>(number);
  }

 private:
  std::string path_;
  json json_;
};

// Layers, as the largest number of a block says.
int64_t count_layers(const TensorSource& source) {
  int64_t layers = 0;
  for (const StoredTensor& tensor : source.tensors) {
    if (!tensor.name.starts_with(kOurBlocks)) continue;
    int64_t layer = 0;
    for (size_t at = kOurBlocks.size(); at < tensor.name.size() && tensor.name[at] >= '0' &&
                                        tensor.name[at] <= '9' && layer < (int64_t{1} << 40);
         ++at) {
      layer = 10 * layer + (tensor.name[at] - '0');
    }
    layers = std::max(layers, layer + 1);
  }
  return layers;
}

void check_sizes(const Config& config, const TensorSource& source) {
  const auto require = [&](const char* key, const char* name, int axis) {
    const StoredTensor* tensor = source.find(name);
    if (tensor != nullptr && tensor->shape.rank() == 2) {
      config.require_size(key, tensor->shape[axis]);
    }
  };
  require("vocab_size", "emb.weight", 0);
  require("hidden_size", "emb.weight", 1);
  require("attention_hidden_size", "blocks.0.att.key.weight", 0);
  require("intermediate_size", "blocks.0.ffn.key.weight", 0);
  config.require_size("num_hidden_layers", count_layers(source));
}

// The head is the embedding: there is none in the file, or one that the library passes over.
void tie_head(TensorSource& source) {
  const StoredTensor* embedding = source.find("emb.weight");
  if (embedding == nullptr) return;
  StoredTensor head = *embedding;
  head.name = "head.weight";
  std::erase_if(source.tensors, [&](const StoredTensor& t) { return t.name == head.name; });
  source.tensors.push_back(std::move(head));
}

void read_tokenizer(const fs::path& folder, TensorSource& source) {
  constexpr int64_t kLongest = int64_t{64} << 20;
  for (const char* name : {kTokenizerFile, kVocabularyFile}) {
    const fs::path path = folder / name;
    if (!is_there(path)) continue;
    const MappedFile file(path);
    check(file.size() <= kLongest) || fail("the tokenizer '{}' has {} bytes, expected at most {}",
                                           path.string(), file.size(), kLongest);
    source.metadata["tokenizer"] = {reinterpret_cast<const char*>(file.bytes().data()),
                                    file.bytes().size()};
    return;
  }
}

}  // namespace

std::optional<std::string> huggingface_name(std::string_view name) {
  for (const NamePair& pair : kOutside) {
    if (pair.ours == name) return std::string(pair.theirs);
  }
  std::string theirs =
      in_other_block(name, kOurBlocks, kTheirBlocks, &NamePair::ours, &NamePair::theirs);
  if (theirs.empty()) return std::nullopt;
  return theirs;
}

void rename_huggingface_tensors(TensorSource& source, const std::string& path) {
  const auto is_theirs = [](const StoredTensor& tensor) {
    return tensor.name.starts_with("rwkv.");
  };
  if (std::none_of(source.tensors.begin(), source.tensors.end(), is_theirs)) return;
  for (StoredTensor& tensor : source.tensors) {
    for (const std::string_view part : kLaterGenerations) {
      check(!is_theirs(tensor) || tensor.name.find(part) == std::string::npos) ||
          fail(
              "'{}' has the Hugging Face names of generation 5 or 6 ({}): of these RWKV-4 is read; "
              "give the .pth file of the same model",
              path, tensor.name);
    }
    std::string ours = our_name(tensor.name);
    if (!ours.empty()) tensor.name = std::move(ours);
  }
}

TensorSource open_huggingface_folder(const fs::path& folder) {
  const fs::path config_path = folder / kConfigFile;
  check(is_there(config_path)) ||
      fail(
          "expected a checkpoint file or a Hugging Face folder, '{}' is a folder without "
          "config.json: name the .pth, .safetensors or .bin file in it",
          folder.string());
  const Config config(config_path);
  config.require_rwkv4();
  TensorSource source = open_weights(folder);
  rename_huggingface_tensors(source, folder.string());
  if (config.flag("tie_word_embeddings")) tie_head(source);
  check_sizes(config, source);
  source.format = "huggingface";
  source.norm_epsilon = config.epsilon(source.norm_epsilon);
  read_tokenizer(folder, source);
  return source;
}

}  // namespace rookery
