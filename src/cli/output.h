// Standard output and standard input.
#pragma once

#include <string>
#include <string_view>

namespace rookery::cli {

// Writes to standard output and flushes. False when nobody reads it any more (a closed pipe: the
// reader has seen enough, so the work ends quietly). Throws Error when it cannot be written (a full
// disk).
bool write_output(std::string_view text);

// Standard input to its end.
std::string read_standard_input();

}  // namespace rookery::cli
