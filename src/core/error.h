// How the one exception of the library is thrown.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "rookery/error.hpp"

namespace rookery {

// Throws Error with the formatted text. The type lets it stand behind `||`.
template <class... Args>
[[noreturn]] bool fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// What must hold, and the error when it does not:
//   check(x.cols() == width) || fail("x has {} columns, expected {}", x.cols(), width);
// The text and its arguments are evaluated on failure only.
[[nodiscard]] constexpr bool check(bool ok) { return ok; }

}  // namespace rookery
