// The one exception of the library. Its text says what was expected, what came and what to do.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace rookery {

// Something the user can act on: a bad file, a bad request, a flag that does not fit the model.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error with the formatted text unless `ok`.
template <class... Args>
void check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]] {
    throw Error(fmt::format(format, std::forward<Args>(args)...));
  }
}

}  // namespace rookery
