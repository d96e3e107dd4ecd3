#include "core/tensor.h"

#include <fmt/ranges.h>

namespace rookery {

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(sizes_.begin(), sizes_.begin() + rank_, ", "));
}

std::string TensorType::to_string() const {
  return fmt::format("{} {}", name_of(dtype), shape.to_string());
}

}  // namespace rookery
