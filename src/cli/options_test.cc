// What users type: shapes and lists of ids, and what is said about those that are none.
#include "cli/options.h"

#include <gtest/gtest.h>

#include <climits>

namespace rookery::cli {
namespace {

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Options, ParsesShapes) {
  const ModelConfig config = parse_shape("4:12:768:50277");
  EXPECT_EQ(config, make_config("4", 12, 768, 50277));
  EXPECT_EQ(config.ffn_width, 4 * 768);
}

TEST(Options, RefusesWhatIsNoShape) {
  for (const char* text : {"", ":", "4", "4:12", "4:12:768", "4:12:768:", "4:12:768:256:1",
                           "4:12:768:x", "4:12:768:256 ", "4:1.5:768:256", "12,768,256",
                           "4::768:256", "4:12:768:99999999999999999999"}) {
    const std::string error = error_of([&] { parse_shape(text); });
    EXPECT_NE(error.find("expected GENERATION:LAYERS:WIDTH:VOCABULARY, such as 4:12:768:50277"),
              std::string::npos)
        << text << ": " << error;
  }
  EXPECT_NE(error_of([] { parse_shape("3:12:768:256"); }).find("generation '3'"),
            std::string::npos);
  for (const char* text : {"4:0:768:256", "4:12:-768:256", "4:12:768:0", "4:1000000:768:256"}) {
    EXPECT_NE(error_of([&] { parse_shape(text); }).find("cannot be built"), std::string::npos)
        << text;
  }
}

TEST(Options, ParsesIds) {
  EXPECT_EQ(parse_ids("5,3,100"), (std::vector<int32_t>{5, 3, 100}));
  EXPECT_EQ(parse_ids(" 5 3, 100\n"), (std::vector<int32_t>{5, 3, 100}));
  EXPECT_EQ(parse_ids("2147483647"), (std::vector<int32_t>{INT_MAX}));
}

TEST(Options, RefusesWhatIsNoId) {
  for (const char* text : {"", " , ", "x", "5,x", "5;3", "1.5", "5x", "2147483648"}) {
    EXPECT_NE(error_of([&] { parse_ids(text); }).find("expected whole numbers"), std::string::npos)
        << text;
  }
}

}  // namespace
}  // namespace rookery::cli
