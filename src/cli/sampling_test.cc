// What stop strings say.
#include "cli/sampling.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace rookery::cli {
namespace {

TEST(SamplingFlags, StopStringsAreUnescaped) {
  EXPECT_EQ(unescape(R"(a\nb\tc\rd\\n)"), "a\nb\tc\rd\\n");
  EXPECT_THROW(unescape("\\x"), Error);
  EXPECT_THROW(unescape("a\\"), Error);
  EXPECT_THROW(unescape(""), Error);
}

}  // namespace
}  // namespace rookery::cli
