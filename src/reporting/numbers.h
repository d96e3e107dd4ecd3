// Numbers as people read and type them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rookery {

// "0.4s", "12s", "3m05s", "2h07m", "3d04h"; "?" for a negative number and one that is not finite.
std::string format_duration(double seconds);

// "7", "0.25", "1.3K", "169M", "1.5B", "2.6T": thousands, millions, billions, trillions.
std::string format_count(double count);

// "17 B", "1.5 KiB", "3.2 GiB".
std::string format_bytes(double bytes);

// "169,342,464".
std::string format_grouped(int64_t number);

// Bytes from "5GB", "500MiB" or "1000000". Throws Error for anything else, for zero and for more
// than an int64_t holds.
int64_t parse_bytes(std::string_view text);

}  // namespace rookery
