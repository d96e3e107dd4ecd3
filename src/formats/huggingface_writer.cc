#include "formats/huggingface_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "formats/huggingface.h"
#include "formats/safetensors.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string reason(int number) { return std::generic_category().message(number); }

// "x/y" for "x/y/", and what a link leads to.
fs::path resolved(const fs::path& folder) {
  const fs::path plain = folder.has_filename() ? folder : folder.parent_path();
  std::error_code error;
  return fs::is_symlink(plain, error) ? fs::canonical(plain, error) : plain;
}

fs::path parent_of(const fs::path& folder) {
  return folder.has_parent_path() ? folder.parent_path() : fs::path(".");
}

// Filled beside its place under a name of its own, and moved there in commit(). Without that the
// destructor removes it.
class AtomicFolder {
 public:
  explicit AtomicFolder(const fs::path& folder) : path_(resolved(folder)) {
    require_new_folder(path_);
    static std::atomic<int64_t> counter{0};
    std::error_code error;
    do {
      aside_ = parent_of(path_) / fmt::format(".rookery-{}-{}.folder", ::getpid(), ++counter);
    } while (!fs::create_directory(aside_, error) && !error);
    if (error) {
      fail("cannot write into the folder '{}' ({}): check its permissions and free space",
           parent_of(path_).string(), error.message());
    }
  }
  ~AtomicFolder() {
    std::error_code ignored;
    if (!aside_.empty()) fs::remove_all(aside_, ignored);
  }
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const fs::path& aside() const { return aside_; }

  void commit() {
    // Takes the place of an empty folder, but of nothing else.
    check(::rename(aside_.c_str(), path_.c_str()) == 0) ||
        fail(
            "cannot put the finished folder in the place of '{}' ({}): something has appeared "
            "there",
            path_.string(), reason(errno));
    aside_.clear();
    const int parent = ::open(parent_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) return;  // a folder that may be written but not read
    ::fsync(parent);         // some file systems cannot; the folder is complete in any case
    ::close(parent);
  }

 private:
  fs::path path_, aside_;
};

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), static_cast<int64_t>(text.size()));
  file.commit();
}

// The type that holds all numbers.
const char* torch_type(std::span<const StoredTensor> tensors) {
  const auto all = [&](DType dtype) {
    return std::all_of(tensors.begin(), tensors.end(),
                       [&](const StoredTensor& tensor) { return tensor.dtype == dtype; });
  };
  return all(DType::kF16) ? "float16" : all(DType::kBF16) ? "bfloat16" : "float32";
}

ordered_json config_of(std::span<const StoredTensor> tensors, const HuggingfaceOptions& options) {
  const auto size = [&](std::string_view name, int axis) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const StoredTensor& t) { return t.name == name; });
    check(found != tensors.end() && found->shape.rank() == 2) ||
        fail("a Hugging Face folder of RWKV-4 needs the matrix {}, which the model lacks", name);
    return found->shape[axis];
  };
  const auto layers = std::count_if(tensors.begin(), tensors.end(), [](const StoredTensor& tensor) {
    return tensor.name.starts_with("blocks.") && tensor.name.ends_with(".ln1.weight");
  });
  // The shortest number that is the same float again.
  const double epsilon = std::stod(fmt::format("{}", options.norm_epsilon));
  return {{"architectures", ordered_json::array({"RwkvForCausalLM"})},
          {"attention_hidden_size", size("blocks.0.att.key.weight", 0)},
          {"bos_token_id", 0},
          {"context_length", options.context_length},
          {"eos_token_id", 0},
          {"hidden_size", size("emb.weight", 1)},
          {"intermediate_size", size("blocks.0.ffn.key.weight", 0)},
          {"layer_norm_epsilon", epsilon},
          {"model_type", "rwkv"},
          {"num_hidden_layers", layers},
          {"rescale_every", 6},
          {"tie_word_embeddings", false},
          {"torch_dtype", torch_type(tensors)},
          {"use_cache", true},
          {"vocab_size", size("emb.weight", 0)}};
}

std::vector<std::vector<StoredTensor>> shards_of(std::vector<StoredTensor> tensors,
                                                 int64_t most_bytes) {
  std::vector<std::vector<StoredTensor>> shards(1);
  int64_t bytes = 0;
  for (StoredTensor& tensor : tensors) {
    if (!shards.back().empty() && tensor.bytes() > most_bytes - bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += tensor.bytes();
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

}  // namespace

void require_new_folder(const fs::path& folder) {
  const fs::path path = resolved(folder);
  check(!path.empty()) || fail("expected a folder to write, got no name: choose one");
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  check(!fs::exists(status) || fs::is_directory(status)) ||
      fail("expected a folder to write, '{}' is a file: choose another name", folder.string());
  check(!fs::exists(status) || fs::is_empty(path, error)) ||
      fail("the folder '{}' is not empty: choose another name, or empty it first", folder.string());
  check(fs::is_directory(parent_of(path), error)) ||
      fail("cannot write '{}': there is no folder '{}'; create it first", folder.string(),
           parent_of(path).string());
}

const char* tokenizer_file_name(std::string_view definition) {
  if (definition.starts_with('{')) return kTokenizerFile;
  return definition.find('\n') == std::string_view::npos ? nullptr : kVocabularyFile;
}

void write_huggingface(const fs::path& folder, std::span<const StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const HuggingfaceOptions& options, const WriteProgress& progress) {
  check(options.shard_bytes > 0) ||
      fail("a file of weights cannot hold {} bytes: expected more than 0", options.shard_bytes);
  const ordered_json config = config_of(tensors, options);
  std::vector<StoredTensor> renamed;
  for (const StoredTensor& tensor : tensors) {
    renamed.push_back(tensor);
    std::optional<std::string> name = huggingface_name(tensor.name);
    check(name.has_value()) || fail(
                                   "a Hugging Face folder of RWKV-4 has no place for {}: write a "
                                   ".pth or .safetensors file",
                                   tensor.name);
    renamed.back().name = std::move(*name);
  }
  const int64_t total = bytes_of(tensors);
  std::map<std::string, std::string> beside = metadata;
  beside["format"] = "pt";

  AtomicFolder target(folder);
  const auto tokenizer = beside.find("tokenizer");
  if (tokenizer != beside.end()) {
    if (const char* name = tokenizer_file_name(tokenizer->second)) {
      write_text(target.aside() / name, tokenizer->second);
      beside.erase(tokenizer);
    }
  }
  write_text(target.aside() / kConfigFile, config.dump(2) + "\n");
  const auto shards = shards_of(std::move(renamed), options.shard_bytes);
  if (shards.size() == 1) {
    write_safetensors(target.aside() / kSafetensorsFile, shards[0], beside, progress);
  } else {
    ordered_json index = {{"metadata", {{"total_size", total}}},
                          {"weight_map", ordered_json::object()}};
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string name =
          fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
      for (const StoredTensor& tensor : shards[i]) index["weight_map"][tensor.name] = name;
      write_safetensors(target.aside() / name, shards[i], beside, progress);
    }
    write_text(target.aside() / (std::string(kSafetensorsFile) + kIndexEnding),
               index.dump(2) + "\n");
  }
  target.commit();
}

}  // namespace rookery
