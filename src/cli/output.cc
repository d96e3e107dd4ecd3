#include "cli/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>

#include "core/error.h"

namespace rookery::cli {

bool write_output(std::string_view text) {
  errno = 0;
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written && errno == EPIPE) return false;
  check(written) ||
      fail("cannot write to standard output ({}): is the disk full?", std::strerror(errno));
  return true;
}

std::string read_standard_input() {
  std::cin >> std::noskipws;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

}  // namespace rookery::cli
