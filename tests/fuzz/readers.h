// Everything that reads files from outside, as one list: the fuzzer, the corpus test and the
// mutation test run over it.
#pragma once

#include <span>
#include <string_view>

namespace rookery {

struct Reader {
  std::string_view name;  // also of its folder of inputs in tests/fuzz/corpus/
  // Reads `bytes` as a file of its format, and touches everything that was read. Throws Error, and
  // nothing else, for what is no such file.
  void (*read)(std::span<const std::byte> bytes);
};

std::span<const Reader> readers();

}  // namespace rookery
