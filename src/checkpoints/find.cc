#include "checkpoints/find.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "formats/huggingface.h"
#include "formats/tensor_source.h"

namespace rookery {
namespace {

constexpr std::string_view kPrefix = "checkpoint-", kSuffix = ".safetensors";

std::filesystem::path only_model_file(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string ending = entry.path().extension().string();
    if (ending == ".pth" || ending == ".safetensors" || ending == ".bin") {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  check(!found.empty()) ||
      fail(
          "the folder '{}' holds no model: expected config.json and weights of a Hugging Face "
          "model, model.safetensors or checkpoint-*.safetensors of a training run, or one .pth, "
          ".safetensors or .bin file",
          folder);
  constexpr size_t kMostListed = 8;
  std::string list;
  for (size_t i = 0; i < std::min(found.size(), kMostListed); ++i) {
    list += (i == 0 ? "" : ", ") + found[i].filename().string();
  }
  check(found.size() == 1) ||
      fail("the folder '{}' holds {} models ({}{}): name one of them", folder, found.size(), list,
           found.size() > kMostListed ? ", ..." : "");
  return found[0];
}

}  // namespace

std::filesystem::path checkpoint_path(const std::filesystem::path& folder, int64_t step) {
  return folder / fmt::format("{}{:08}{}", kPrefix, step, kSuffix);
}

int64_t step_of_checkpoint(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return -1;
  const std::string number =
      name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  const bool digits = number.find_first_not_of("0123456789") == std::string::npos;
  return digits && !number.empty() && number.size() <= 18 ? std::stoll(number) : -1;
}

int64_t step_of_model(const std::filesystem::path& path) {
  const TensorSource source = open_checkpoint(path);
  const auto metadata = source.metadata.find("rookery");
  if (metadata == source.metadata.end()) return 0;
  const nlohmann::json json = nlohmann::json::parse(metadata->second, nullptr, false);
  return json.is_object() && json.contains("step") && json["step"].is_number_integer()
             ? json["step"].get<int64_t>()
             : 0;
}

std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder) {
  std::vector<std::pair<int64_t, std::filesystem::path>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const int64_t step = step_of_checkpoint(entry.path());
    if (step >= 0) found.emplace_back(step, entry.path());
  }
  std::sort(found.begin(), found.end());
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::filesystem::path find_model_file(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return path;
  if (fs::exists(fs::path(path) / kConfigFile)) return path;
  const fs::path whole = fs::path(path) / "model.safetensors";
  const std::vector<fs::path> checkpoints = list_checkpoints(path);
  // A finished run may have gone on since it wrote its model: the later step counts.
  if (fs::exists(whole) &&
      (checkpoints.empty() || step_of_checkpoint(checkpoints.back()) <= step_of_model(whole))) {
    return whole;
  }
  if (!checkpoints.empty()) return checkpoints.back();
  return only_model_file(path);
}

}  // namespace rookery
