// For the tests of the readers: damage of two kinds.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "checking/files_for_tests.h"
#include "formats/tensor_source.h"

namespace rookery {

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// The numbers of a tensor of type T.
template <class T>
std::vector<T> numbers_of(const StoredTensor& tensor) {
  EXPECT_EQ(tensor.dtype, dtype_of<T>()) << tensor.name;
  TensorReader reader;
  const auto* data = static_cast<const T*>(reader.read(tensor));
  return {data, data + tensor.shape.count()};
}

// The bytes of a tensor.
inline std::string contents_of(const StoredTensor& tensor) {
  TensorReader reader;
  return {static_cast<const char*>(reader.read(tensor)), static_cast<size_t>(tensor.bytes())};
}

// The text of the Error that opening the file gives; empty if there is none.
inline std::string error_of(const std::filesystem::path& path) {
  try {
    open_checkpoint(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Opens the file and reads every byte of what it gives, so that a sanitizer sees each access.
// Returns whether it could be opened; anything but Error goes on to the caller.
inline bool opens(const std::filesystem::path& path) {
  try {
    const TensorSource source = open_checkpoint(path);
    uint32_t sum = 0;
    TensorReader reader;
    for (const StoredTensor& tensor : source.tensors) {
      const auto* bytes = static_cast<const unsigned char*>(reader.read(tensor));
      for (int64_t i = 0; i < tensor.bytes(); ++i) sum += bytes[i];
    }
    volatile uint32_t used = sum;
    (void)used;
    return true;
  } catch (const Error& error) {
    EXPECT_STRNE(error.what(), "");
    return false;
  }
}

// Every file that begins like `bytes` and is shorter is an Error.
inline void expect_no_truncation_opens(const std::string& bytes) {
  const TemporaryFolder folder;
  ASSERT_TRUE(opens(save(folder, "whole", bytes)));
  for (size_t length = 0; length < bytes.size(); ++length) {
    ASSERT_FALSE(opens(save(folder, "part", bytes.substr(0, length))))
        << "the first " << length << " bytes";
  }
}

// Files with one to four changed bytes give a result or an Error. Half of the changes are to values
// that lengths and offsets go wrong at.
inline void expect_mutations_are_survived(const std::string& bytes, int count, uint32_t seed) {
  const TemporaryFolder folder;
  std::mt19937 random(seed);
  int opened = 0;
  for (int i = 0; i < count; ++i) {
    std::string changed = bytes;
    for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      constexpr unsigned char kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
      const bool edge = random() % 2 == 0;
      const uint32_t value = random();
      changed[random() % changed.size()] =
          static_cast<char>(edge ? kEdges[value % std::size(kEdges)] : value);
    }
    SCOPED_TRACE(i);
    opened += opens(save(folder, "changed", changed)) ? 1 : 0;
  }
  // Changes to the data itself do no harm: both outcomes must occur, or the test tests nothing.
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, count);
}

}  // namespace rookery
