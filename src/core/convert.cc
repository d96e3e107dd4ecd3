#include "core/convert.h"

#include <cstring>

namespace rookery {
namespace {

template <class T>
auto widen(T x) {
  if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>) {
    return to_float(x);
  } else {
    return x;
  }
}
template <class To, class From>
To narrow(From x) {
  if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, Float16>) {
    return to_float16(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <class From, class To>
void convert_typed(const TensorView& from, const TensorView& to) {
  const From* source = from.as<From>();
  To* target = to.as<To>();
  for (int64_t i = 0; i < from.count(); ++i) target[i] = narrow<To>(widen(source[i]));
}

template <class From>
void convert_from(const TensorView& from, const TensorView& to) {
  switch (to.dtype) {
    case DType::kF32:
      return convert_typed<From, float>(from, to);
    case DType::kF16:
      return convert_typed<From, Float16>(from, to);
    case DType::kBF16:
      return convert_typed<From, BFloat16>(from, to);
    case DType::kF64:
      return convert_typed<From, double>(from, to);
    case DType::kC128:
      return convert_typed<From, std::complex<double>>(from, to);
  }
}

}  // namespace

void convert(const TensorView& from, const TensorView& to) {
  assert(from.count() == to.count());
  if (from.dtype == to.dtype) {
    std::memcpy(to.data, from.data, from.bytes());
    return;
  }
  switch (from.dtype) {
    case DType::kF32:
      return convert_from<float>(from, to);
    case DType::kF16:
      return convert_from<Float16>(from, to);
    case DType::kBF16:
      return convert_from<BFloat16>(from, to);
    case DType::kF64:
      return convert_from<double>(from, to);
    case DType::kC128:
      fail("complex numbers have no {} form", name_of(to.dtype));
  }
}

}  // namespace rookery
