// Numbers in every unit, at the borders between units, and what is not a number.
#include "reporting/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/error.h"

namespace rookery {
namespace {

TEST(Numbers, FormatsDuration) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(0.44), "0.4s");
  EXPECT_EQ(format_duration(9.97), "10s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(185), "3m05s");
  EXPECT_EQ(format_duration(3599.7), "1h00m");
  EXPECT_EQ(format_duration(7620), "2h07m");
  EXPECT_EQ(format_duration(3 * 86400 + 4 * 3600 + 59), "3d04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(INFINITY), "?");
  EXPECT_EQ(format_duration(1e300), "?");
}

TEST(Numbers, FormatsCount) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(0.25), "0.25");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(999.7), "1.0K");
  EXPECT_EQ(format_count(1300), "1.3K");
  EXPECT_EQ(format_count(1.3e6), "1.3M");
  EXPECT_EQ(format_count(169.3e6), "169M");
  EXPECT_EQ(format_count(999.9e6), "1.0B");
  EXPECT_EQ(format_count(2.6e12), "2.6T");
  EXPECT_EQ(format_count(-1300), "-1.3K");
  EXPECT_EQ(format_count(std::nan("")), "?");
}

TEST(Numbers, FormatsBytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(3.2 * (1 << 30)), "3.2 GiB");
  EXPECT_EQ(format_bytes(1048575), "1.0 MiB");
  EXPECT_EQ(format_bytes(141e9), "131 GiB");
}

TEST(Numbers, FormatsGrouped) {
  EXPECT_EQ(format_grouped(0), "0");
  EXPECT_EQ(format_grouped(999), "999");
  EXPECT_EQ(format_grouped(1000), "1,000");
  EXPECT_EQ(format_grouped(169342464), "169,342,464");
  EXPECT_EQ(format_grouped(-123), "-123");
  EXPECT_EQ(format_grouped(-1234), "-1,234");
}

TEST(Numbers, ParsesBytes) {
  EXPECT_EQ(parse_bytes("1000000"), 1000000);
  EXPECT_EQ(parse_bytes("5GB"), 5'000'000'000);
  EXPECT_EQ(parse_bytes("3KB"), 3000);
  EXPECT_EQ(parse_bytes("7MB"), 7'000'000);
  EXPECT_EQ(parse_bytes("2KiB"), 2048);
  EXPECT_EQ(parse_bytes("500MiB"), int64_t{500} << 20);
  EXPECT_EQ(parse_bytes("3GiB"), int64_t{3} << 30);
}

TEST(Numbers, RefusesInvalidBytes) {
  for (const char* text :
       {"", "GB", "0", "-1", "5 GB", "5gb", "1.5GB", "9223372036854775808", "9223372036GiB", "x"}) {
    EXPECT_THROW(parse_bytes(text), Error) << text;
  }
}

}  // namespace
}  // namespace rookery
