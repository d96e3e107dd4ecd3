// The one exception of the library. Its text says what was expected, what came and what to do.
#pragma once

#include <stdexcept>

namespace rookery {

// Something the user can act on: a bad file, a bad request, an option that does not fit the model.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace rookery
