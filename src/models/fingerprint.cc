#include "models/fingerprint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>

#include "core/convert.h"
#include "io/hash.h"

namespace rookery {
namespace {

constexpr int64_t kValues = 8;  // of each parameter
constexpr size_t kHashDigits = 16, kValueDigits = 4;

// Of one element; any type of number.
BFloat16 rounded(const TensorView& value, int64_t index) {
  std::array<std::byte, 8> number{};  // it may be on a GPU
  copy_bytes(number.data(), static_cast<const char*>(value.data) + index * size_of(value.dtype),
             size_of(value.dtype));
  const TensorView one{number.data(), value.dtype, {1}};
  float wide = 0;
  convert(one, {&wide, DType::kF32, {1}});
  return to_bfloat16(wide);
}

uint16_t parse_value(std::string_view digits) {
  uint16_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

// Whether both can be roundings of one weight: by float16 (spacing at least 2^-24) on the way, or
// not.
bool agree(uint16_t a, uint16_t b) {
  if (a == b) return true;
  const float x = to_float(BFloat16{a}), y = to_float(BFloat16{b});
  // False for NaN.
  return std::abs(x - y) <= 0x1p-7f * std::max(std::abs(x), std::abs(y)) + 0x1p-24f;
}

}  // namespace

std::string fingerprint(const Model& model) {
  std::string names = model.config().generation, values;
  for (const Parameter& parameter : model.parameters()) {
    names += '\n' + parameter.spec.name + parameter.spec.shape.to_string();
    const int64_t count = parameter.value.count();
    for (int64_t i = 0; i < std::min(count, kValues); ++i) {
      // The prime puts the places in different columns of a matrix.
      const int64_t index = count <= kValues ? i : (i * (count / kValues) + 7919 * i) % count;
      values += fmt::format("{:04x}", rounded(parameter.value, index).bits);
    }
  }
  return fmt::format("{:016x}", hash_bytes(names)) + values;
}

FingerprintMatch match_fingerprints(std::string_view saved, std::string_view here) {
  FingerprintMatch match;
  const bool digits = saved.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  match.same_shapes = digits && saved.size() == here.size() && here.size() >= kHashDigits &&
                      saved.substr(0, kHashDigits) == here.substr(0, kHashDigits);
  if (!match.same_shapes) return match;
  for (size_t at = kHashDigits; at + kValueDigits <= here.size(); at += kValueDigits) {
    ++match.values;
    if (!agree(parse_value(saved.substr(at, kValueDigits)),
               parse_value(here.substr(at, kValueDigits)))) {
      ++match.differ;
    }
  }
  return match;
}

}  // namespace rookery
