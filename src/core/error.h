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
