// Every conversion on every SIMD target beside the definitions in core/dtype.h, to the bit.

#include "core/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <vector>

#include "core/random.h"
#include "hwy/highway.h"

namespace rookery {
namespace {

template <class Check>
void on_every_target(const Check& check) {
  hwy::SetSupportedTargetsForTest(0);
  int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  for (; targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    SCOPED_TRACE(hwy::TargetName(targets & -targets));
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
}

// Every number of 16 bits.
template <class T>
std::vector<T> all_numbers() {
  std::vector<T> numbers;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) numbers.push_back({static_cast<uint16_t>(bits)});
  return numbers;
}

// Every sign and exponent, with fractions at and beside every place where the rounding to 16 bits
// turns, and random ones.
std::vector<float> floats() {
  std::vector<float> numbers;
  Random random(1);
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x3000u,
                                 0x7fffu, 0x8000u, 0x8001u, 0xf000u, 0xffffu}) {
      numbers.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
    numbers.push_back(std::bit_cast<float>(upper << 16 | (random.next_u32() & 0xffff)));
  }
  return numbers;
}

std::vector<double> doubles() {
  std::vector<double> numbers = {0.0,       -0.0,   INFINITY,
                                 -INFINITY, NAN,    1e300,
                                 -1e300,    1e-300, std::numeric_limits<double>::denorm_min()};
  for (const float x : floats()) {
    numbers.push_back(x);
    if (std::isfinite(x)) numbers.push_back(std::nextafter(static_cast<double>(x), 1e300));
  }
  return numbers;
}

// The definition of one conversion.
template <class To, class From>
To defined(From x) {
  if constexpr (std::is_same_v<From, Float16> || std::is_same_v<From, BFloat16>) {
    return defined<To>(to_float(x));
  } else if constexpr (std::is_same_v<To, Float16>) {
    return to_float16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
void expect_definition(const std::vector<From>& numbers) {
  if constexpr (!std::is_same_v<From, To>) {
    const auto count = static_cast<int64_t>(numbers.size());
    std::vector<To> expected;
    for (const From& x : numbers) expected.push_back(defined<To>(x));
    on_every_target([&] {
      std::vector<To> actual(numbers.size());
      convert({const_cast<From*>(numbers.data()), dtype_of<From>(), {count}},
              {actual.data(), dtype_of<To>(), {count}});
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(To)), 0)
            << name_of(dtype_of<From>()) << " to " << name_of(dtype_of<To>()) << ", number " << i;
      }
    });
  }
}
template <class From>
void expect_definitions(const std::vector<From>& numbers) {
  expect_definition<float>(numbers);
  expect_definition<Float16>(numbers);
  expect_definition<BFloat16>(numbers);
  expect_definition<double>(numbers);
  expect_definition<std::complex<double>>(numbers);
}

TEST(Convert, IsTheDefinitionOnEveryTarget) {
  expect_definitions(all_numbers<Float16>());
  expect_definitions(all_numbers<BFloat16>());
  expect_definitions(floats());
  expect_definitions(doubles());
}

// Lengths around those of vectors, at odd addresses, and nothing beside them is touched.
TEST(Convert, AnyLengthAndPlace) {
  constexpr int64_t kMost = 70;
  for (const DType to : {DType::kF16, DType::kBF16, DType::kF32}) {
    const DType from = to == DType::kF32 ? DType::kBF16 : DType::kF32;
    on_every_target([&] {
      for (int64_t first = 0; first < 3; ++first) {
        for (int64_t count = 0; first + count < kMost; ++count) {
          std::vector<std::byte> source(kMost * 4), target(kMost * 4, std::byte{0x5a});
          const std::vector<std::byte> untouched = target;
          for (int64_t i = 0; i < kMost; ++i) {
            const float x = 1.0f + static_cast<float>(i);
            const BFloat16 low = to_bfloat16(x);
            std::memcpy(source.data() + i * size_of(from),
                        from == DType::kF32 ? static_cast<const void*>(&x) : &low, size_of(from));
          }
          const auto at = [&](std::vector<std::byte>& bytes, DType dtype) {
            return TensorView{bytes.data() + first * size_of(dtype), dtype, {count}};
          };
          convert(at(source, from), at(target, to));
          for (int64_t i = 0; i < kMost; ++i) {
            const std::byte* number = target.data() + i * size_of(to);
            if (i < first || i >= first + count) {
              EXPECT_EQ(std::memcmp(number, untouched.data(), size_of(to)), 0) << i;
              continue;
            }
            float x = 0;
            const DType dtype = to;
            convert({const_cast<std::byte*>(number), dtype, {1}}, {&x, DType::kF32, {1}});
            EXPECT_EQ(x, 1.0f + static_cast<float>(i));
          }
        }
      }
    });
  }
}

TEST(Convert, ThreadsShareTheWork) {
  ThreadPool pool(3);
  std::vector<float> numbers(100003);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i) * 0.37f;
  const auto count = static_cast<int64_t>(numbers.size());
  const TensorView from{numbers.data(), DType::kF32, {count}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    std::vector<std::byte> alone(numbers.size() * 8), together(numbers.size() * 8);
    convert(from, {alone.data(), dtype, {count}});
    convert(from, {together.data(), dtype, {count}}, &pool);
    EXPECT_EQ(alone, together);
  }
}

TEST(Convert, ComplexNumbersStayComplex) {
  std::complex<double> complex[2] = {{1, 2}, {3, 4}}, copy[2];
  float real[2];
  convert({complex, DType::kC128, {2}}, {copy, DType::kC128, {2}});
  EXPECT_EQ(copy[1], complex[1]);
  EXPECT_THROW(convert({complex, DType::kC128, {2}}, {real, DType::kF32, {2}}), Error);
}

}  // namespace
}  // namespace rookery
