#include "inspect/model_report.h"

#include <algorithm>

namespace rookery {
namespace {

int64_t bytes_with(const Model& model, DType matrices) {
  int64_t bytes = 0;
  for (const Parameter& parameter : model.parameters()) {
    bytes += parameter.value.count() * size_of(parameter.spec.is_matrix() ? matrices : DType::kF32);
  }
  return bytes;
}

std::vector<std::pair<std::string, int64_t>> count_parts(const Model& model) {
  std::vector<std::pair<std::string, int64_t>> parts;
  for (const Parameter& parameter : model.parameters()) {
    auto part = std::find_if(parts.begin(), parts.end(),
                             [&](const auto& known) { return known.first == parameter.spec.part; });
    if (part == parts.end()) part = parts.insert(part, {std::string(parameter.spec.part), 0});
    part->second += parameter.value.count();
  }
  return parts;
}

std::vector<ModelReport::Group> count_groups(const Model& model) {
  std::map<std::pair<bool, float>, int64_t> counts;
  for (const Parameter& parameter : model.parameters()) {
    const OptimizerGroup& group = parameter.spec.group;
    counts[{group.weight_decay, group.rate_multiplier}] += parameter.value.count();
  }
  std::vector<ModelReport::Group> groups;
  for (const auto& [group, count] : counts) groups.push_back({group.second, group.first, count});
  return groups;
}

}  // namespace

ModelReport report_of(const Model& model) {
  ModelReport report;
  report.config = model.config();
  report.parameters = model.parameter_count();
  report.parameters_by_part = count_parts(model);
  report.optimizer_groups = count_groups(model);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    report.bytes.emplace_back(type, bytes_with(model, type));
  }
  report.state_bytes = model.state_layout().slot_size * size_of(DType::kF32);
  report.flops_per_token = static_cast<int64_t>(forward_flops_per_token(model));
  report.flops_per_token_training = 3 * report.flops_per_token;
  return report;
}

std::map<std::string, int64_t> stored_bytes(const Model& model, const TensorSource& source) {
  std::map<std::string, int64_t> stored;
  for (const Parameter& parameter : model.parameters()) {
    const StoredTensor* tensor = source.find(parameter.spec.name);
    check(tensor != nullptr) ||
        fail("the file lacks '{}': expected the one that the model came from", parameter.spec.name);
    stored[std::string(tensor->stored_type())] += tensor->stored_bytes();
  }
  return stored;
}

}  // namespace rookery
