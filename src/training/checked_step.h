// A training step in which every operator is compared with its definition in double.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/model.h"

namespace rookery {

struct CheckedStepOptions {
  int64_t context = 40;  // tokens of each of two windows
  DType products = DType::kF32;
  Device device = Device::kCpu;
  std::filesystem::path folder = ".";  // for the inputs of an operator that differs
};

struct CheckedStep {
  int64_t checked = 0;  // calls that were compared
  std::map<std::string, Checker::Operator> operators;
  std::vector<std::string> backward_order;  // of operators
};

// Trains one step on random tokens in sequences of several lengths, with dropout, and evaluates
// once. Throws Error for the first operator that differs; its inputs are then in the folder, as
// difference-OPERATOR.safetensors.
CheckedStep check_training_step(Model model, const CheckedStepOptions& options, ThreadPool& pool);

}  // namespace rookery
