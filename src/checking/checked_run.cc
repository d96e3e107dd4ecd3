#include "checking/checked_run.h"

#include <algorithm>
#include <cstddef>

#include "core/convert.h"

namespace rookery {
namespace {

double load(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kF16:
      return to_float(static_cast<const Float16*>(data)[i]);
    case DType::kBF16:
      return to_float(static_cast<const BFloat16*>(data)[i]);
    case DType::kF64:
      return static_cast<const double*>(data)[i];
    case DType::kC128:
      return static_cast<const std::complex<double>*>(data)[i].real();
  }
  return 0;
}

}  // namespace

namespace {

// The same numbers where the processor can read them; `copy` holds those of a GPU.
const void* readable(const void* data, int64_t bytes, std::vector<std::byte>& copy) {
  if (bytes == 0 || !cuda::is_device_memory(data)) return data;
  copy.resize(bytes);
  cuda::copy(copy.data(), data, bytes);
  return copy.data();
}

}  // namespace

double element(const TensorView& view, int64_t i) {
  std::vector<std::byte> copy;
  const int64_t size = size_of(view.dtype);
  const void* at = static_cast<const char*>(view.data) + i * size;
  return load(readable(at, size, copy), view.dtype, 0);
}

std::vector<double> elements(const TensorView& view) {
  std::vector<std::byte> copy;
  const void* data = readable(view.data, view.bytes(), copy);
  std::vector<double> values(view.count());
  for (int64_t i = 0; i < view.count(); ++i) values[i] = load(data, view.dtype, i);
  return values;
}

std::vector<double> elements(const StateView& view) {
  std::vector<std::byte> copy;
  const int64_t span = view.slots == 0 ? 0 : (view.slots - 1) * view.stride + view.width;
  const void* data = readable(view.data, span * size_of(view.dtype), copy);
  std::vector<double> values;
  values.reserve(view.slots * view.width);
  for (int64_t s = 0; s < view.slots; ++s) {
    for (int64_t i = 0; i < view.width; ++i) {
      values.push_back(load(data, view.dtype, s * view.stride + i));
    }
  }
  return values;
}

void write_elements(const std::vector<double>& values, const TensorView& view) {
  std::vector<std::byte> narrow(view.bytes());
  convert({const_cast<double*>(values.data()), DType::kF64, view.shape},
          {narrow.data(), view.dtype, view.shape});
  copy_bytes(view.data, narrow.data(), view.bytes());
}

void write_elements(const std::vector<double>& values, const StateView& view) {
  for (int64_t s = 0; s < view.slots; ++s) {
    const auto begin = values.begin() + s * view.width;
    write_elements({begin, begin + view.width},
                   TensorView{static_cast<char*>(view.data) + s * view.stride * size_of(view.dtype),
                              view.dtype,
                              {view.width}});
  }
}

void note(Checker& checker, const std::string& op, const std::string& what,
          const Comparison& comparison) {
  Checker::Operator& entry = checker.operators[op];
  if (comparison.refused) {
    check(!checker.strict) || fail(
                                  "{}: rounding may move its elements by {:.3g} times their root "
                                  "mean square: nothing could be learned from comparing them",
                                  what, comparison.looseness);
    ++entry.refused;
    return;
  }
  ++entry.compared;
  entry.worst = std::max(entry.worst, comparison.worst);
  entry.looseness = std::max(entry.looseness, comparison.looseness);
}

}  // namespace rookery
