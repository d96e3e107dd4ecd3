// A libFuzzer program for one reader, which ROOKERY_READER names.

#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "readers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rookery::Reader* const reader = [] {
    for (const rookery::Reader& candidate : rookery::readers()) {
      if (candidate.name == ROOKERY_READER) return &candidate;
    }
    std::abort();
  }();
  try {
    reader->read({reinterpret_cast<const std::byte*>(data), size});
  } catch (const rookery::Error&) {  // anything else ends the program, which is a finding
  }
  return 0;
}
