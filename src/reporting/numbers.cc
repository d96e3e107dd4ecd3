#include "reporting/numbers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "core/error.h"

namespace rookery {
namespace {

// Three significant digits at most, of which one after the point at most.
std::string short_number(double value) {
  return std::abs(value) < 99.95 ? fmt::format("{:.1f}", value) : fmt::format("{:.0f}", value);
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || !std::isfinite(seconds)) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  if (seconds > 1e15) return "?";  // more than an integer of seconds can hold
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
  return fmt::format("{}d{:02}h", whole / 86400, whole % 86400 / 3600);
}

std::string format_count(double count) {
  if (!std::isfinite(count)) return "?";
  if (std::abs(count) < 999.5) return fmt::format("{:.3g}", count);
  constexpr std::array<char, 4> kUnits = {'K', 'M', 'B', 'T'};
  size_t unit = 0;
  for (count /= 1000; std::abs(count) >= 999.5 && unit + 1 < kUnits.size(); ++unit) count /= 1000;
  return short_number(count) + kUnits[unit];
}

std::string format_bytes(double bytes) {
  if (!std::isfinite(bytes)) return "?";
  if (std::abs(bytes) < 1023.5) return fmt::format("{:.0f} B", bytes);
  constexpr std::array<std::string_view, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (bytes /= 1024; std::abs(bytes) >= 1023.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  return fmt::format("{} {}", short_number(bytes), kUnits[unit]);
}

std::string format_grouped(int64_t number) {
  std::string digits = std::to_string(number);
  const int64_t first = number < 0 ? 1 : 0;
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > first; at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return digits;
}

int64_t parse_bytes(std::string_view text) {
  struct Unit {
    std::string_view name;
    int64_t bytes;
  };
  constexpr Unit kUnits[] = {{"", 1},
                             {"KB", 1000},
                             {"MB", 1'000'000},
                             {"GB", 1'000'000'000},
                             {"KiB", int64_t{1} << 10},
                             {"MiB", int64_t{1} << 20},
                             {"GiB", int64_t{1} << 30}};
  int64_t number = 0, bytes = 0;
  const char* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, number);
  const std::string_view name(next, static_cast<size_t>(end - next));
  const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                 [&](const Unit& known) { return known.name == name; });
  check(error == std::errc() && number > 0 && unit != std::end(kUnits) &&
        !__builtin_mul_overflow(number, unit->bytes, &bytes)) ||
      fail(
          "invalid size '{}': expected a whole number of bytes, KB, MB, GB, KiB, MiB or GiB, such "
          "as 5GB",
          text);
  return bytes;
}

}  // namespace rookery
