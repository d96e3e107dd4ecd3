#include "checkpoints/tokenizers.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "checkpoints/find.h"
#include "core/error.h"
#include "tokenizers/bytes.h"
#include "tokenizers/load.h"

namespace rookery {
namespace {

// The names under which a tokenizer lies in a folder, besides rwkv_vocab_DATE.txt.
constexpr const char* kTokenizerFiles[] = {"tokenizer.json", "20B_tokenizer.json"};

// The tokenizers in a folder, by the names under which they are published.
std::vector<std::filesystem::path> tokenizers_in(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  std::vector<fs::path> found, vocabularies;
  for (const char* name : kTokenizerFiles) {
    if (fs::exists(folder / name, ignored)) found.push_back(folder / name);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rwkv_vocab") && name.ends_with(".txt")) {
      vocabularies.push_back(entry.path());
    }
  }
  // The names carry dates: the newest first.
  std::sort(vocabularies.rbegin(), vocabularies.rend());
  found.insert(found.end(), vocabularies.begin(), vocabularies.end());
  return found;
}

// The first whose size fits a model; null if there is none. `passed_over` says of each other why.
std::unique_ptr<Tokenizer> first_that_fits(const std::vector<std::filesystem::path>& files,
                                           int64_t vocabulary, std::string& passed_over) {
  // A vocabulary is rounded up for the sake of matrix products, not more.
  constexpr int64_t kMostPadding = 512;
  for (const std::filesystem::path& file : files) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) continue;
    try {
      std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(file);
      const int64_t ids = tokenizer->vocab_size();
      if (ids <= vocabulary && vocabulary < ids + kMostPadding) return tokenizer;
      passed_over += fmt::format("; '{}' has {} ids", file.string(), ids);
    } catch (const Error& error) {
      passed_over += fmt::format("; {}", error.what());
    }
  }
  return nullptr;
}

std::unique_ptr<Tokenizer> named_tokenizer_for(int64_t vocabulary, const std::string& name) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(name, ignored)) return named_tokenizer(name);
  std::string passed_over;
  std::unique_ptr<Tokenizer> tokenizer =
      first_that_fits(tokenizers_in(name), vocabulary, passed_over);
  check(tokenizer != nullptr) ||
      fail(
          "the folder '{}' holds no tokenizer for a model of {} ids: expected tokenizer.json, "
          "20B_tokenizer.json or rwkv_vocab_v20230424.txt{}",
          name, vocabulary, passed_over);
  return tokenizer;
}

// Whether a file is a tokenizer's and not a model's: it begins like one and has no zeros, which the
// length at the beginning of a safetensors file has.
bool looks_like_a_tokenizer(const std::filesystem::path& path) {
  std::array<char, 8> begin{};
  std::ifstream file(path, std::ios::binary);
  file.read(begin.data(), begin.size());
  check(file.gcount() > 0) ||
      fail("cannot read '{}': expected a tokenizer or a model", path.string());
  const std::string_view text(begin.data(), static_cast<size_t>(file.gcount()));
  const size_t first = std::min(text.find_first_not_of(" \t\r\n"), text.size() - 1);
  return text.find('\0') == std::string_view::npos &&
         (text[first] == '{' || (text[first] >= '0' && text[first] <= '9') ||
          text.substr(first).starts_with("bytes"));
}

}  // namespace

std::unique_ptr<Tokenizer> named_tokenizer(const std::string& name) {
  if (name == ByteTokenizer::kName) return parse_tokenizer(name, name);
  std::error_code ignored;
  if (!std::filesystem::is_directory(name, ignored)) return load_tokenizer(name);
  const std::vector<std::filesystem::path> files = tokenizers_in(name);
  check(!files.empty()) || fail(
                               "the folder '{}' holds no tokenizer: expected tokenizer.json, "
                               "20B_tokenizer.json or rwkv_vocab_v20230424.txt",
                               name);
  check(files.size() == 1) ||
      fail("the folder '{}' holds several tokenizers, such as '{}' and '{}': name one", name,
           files[0].filename().string(), files.back().filename().string());
  return load_tokenizer(files[0]);
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& name) {
  if (name == ByteTokenizer::kName) return named_tokenizer(name);
  std::filesystem::path file = name;
  if (std::filesystem::is_directory(file)) {
    try {
      file = find_model_file(name);
    } catch (const Error&) {
      return named_tokenizer(name);
    }
  }
  if (looks_like_a_tokenizer(file)) return load_tokenizer(file);
  return require_tokenizer(look_at_model(file.string()), "");
}

std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model, const std::string& name,
                                          std::string* missing) {
  const int64_t vocabulary = model.model->config().vocabulary;
  const auto own = model.metadata.find("tokenizer");
  std::unique_ptr<Tokenizer> tokenizer;
  std::string source = name, passed_over;
  if (!name.empty()) {
    tokenizer = named_tokenizer_for(vocabulary, name);
  } else if (own != model.metadata.end()) {
    source = fmt::format("the tokenizer in {}", model.file.string());
    tokenizer = parse_tokenizer(own->second, source);
  } else if (vocabulary == 256) {  // no other tokenizer has so few ids
    tokenizer = std::make_unique<ByteTokenizer>();
  } else {
    const std::filesystem::path folder = model.file.parent_path();
    std::vector<std::filesystem::path> files =
        tokenizers_in(folder.empty() ? std::filesystem::path(".") : folder);
    files.insert(files.begin(), folder / (model.file.stem().string() + ".tokenizer.json"));
    tokenizer = first_that_fits(files, vocabulary, passed_over);
  }
  if (tokenizer == nullptr) {
    if (missing != nullptr) *missing = expected_tokenizer(vocabulary) + passed_over;
    return nullptr;
  }
  check(tokenizer->vocab_size() <= vocabulary) ||
      fail(
          "the tokenizer '{}' has {} ids, the model {}: give the tokenizer the model was trained "
          "with",
          source, tokenizer->vocab_size(), vocabulary);
  return with_padding_ids(std::move(tokenizer), vocabulary);
}

std::unique_ptr<Tokenizer> require_tokenizer(const LoadedModel& model, const std::string& name) {
  std::string missing;
  std::unique_ptr<Tokenizer> tokenizer = find_tokenizer(model, name, &missing);
  check(tokenizer != nullptr) ||
      fail("no tokenizer for '{}': give its vocabulary file, or put it beside the model: {}",
           model.file.string(), missing);
  return tokenizer;
}

std::string expected_tokenizer(int64_t vocabulary) {
  if (vocabulary == 65536) {
    return "a vocabulary of 65536 is RWKV World: rwkv_vocab_v20230424.txt, published in the folder "
           "tokenizer of ChatRWKV and of RWKV-LM, and in the Python package rwkv";
  }
  if (vocabulary >= 50277 && vocabulary <= 50432) {
    return fmt::format(
        "a vocabulary of {} is GPT-NeoX's: 20B_tokenizer.json, published in the folder tokenizer "
        "of ChatRWKV and in the Python package rwkv, or tokenizer.json of EleutherAI/gpt-neox-20b",
        vocabulary);
  }
  return fmt::format("expected the one with about {} ids that the model was trained with",
                     vocabulary);
}

}  // namespace rookery
