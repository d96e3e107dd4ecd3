#include "models/parameters.h"

#include <cassert>

namespace rookery {

Shape ParameterSpec::stored_shape() const {
  Shape result = shape;
  if (stored == Stored::kTransposed) {
    const int last = shape.rank() - 1;
    std::swap(result[last], result[last - 1]);
  }
  return result;
}

void ParameterTable::Rows::operator()(std::string_view name, Parameter& parameter,
                                      const Shape& shape, Role role, const OptimizerGroup& group,
                                      Init init, Stored stored) const {
  assert(role == Role::kVector || shape.rank() >= 2);
  parameter.spec = {.name = prefix_ + std::string(name),
                    .shape = shape,
                    .role = role,
                    .group = group,
                    .init = std::move(init),
                    .part = part_,
                    .stored = stored};
  parameter.value.shape = shape;
  table_.parameters_.push_back(&parameter);
}

void ParameterTable::Rows::norm(std::string_view name, Norm& norm, int64_t width) const {
  const std::string prefix(name);
  (*this)(prefix + ".weight", norm.weight, {width}, Role::kVector, {}, constant(1).around(1));
  (*this)(prefix + ".bias", norm.bias, {width}, Role::kVector, {}, constant(0));
}

}  // namespace rookery
