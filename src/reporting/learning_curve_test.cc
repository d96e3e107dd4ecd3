#include "reporting/learning_curve.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "io/file.h"

namespace rookery {
namespace {

// The y of each point of the line with this number, in units of the picture: downwards.
std::vector<double> heights(const std::string& svg, int line) {
  size_t at = 0;
  for (int i = 0; i <= line; ++i) at = svg.find("<polyline points=\"", at) + 18;
  std::vector<double> result;
  const std::string points = svg.substr(at, svg.find('"', at) - at);
  for (size_t comma = points.find(','); comma != std::string::npos;
       comma = points.find(',', comma + 1)) {
    result.push_back(std::stod(points.substr(comma + 1)));
  }
  return result;
}

TEST(LearningCurve, DrawsBothLosses) {
  const std::string svg = learning_curve_svg(
      "{\"step\":1,\"tokens\":1e6,\"loss\":4,\"bits_per_byte\":2}\n"
      "{\"step\":2,\"tokens\":2e6,\"loss\":3,\"bits_per_byte\":1.5,\"validation_loss\":3.5,"
      "\"validation_bits_per_byte\":1.75}\n"
      "{\"step\":3,\"tokens\":3e6,\"loss\":null}\n"
      "{\"step\":4,\"tokens\":4e6,\"loss\":2,\"bits_per_byte\":1,\"validation_loss\":2.5,"
      "\"validation_bits_per_byte\":1.25}\n{\"step\":5,\"tok");
  EXPECT_NE(svg.find("bits per byte"), std::string::npos);
  EXPECT_NE(svg.find(">validation<"), std::string::npos);
  const std::vector<double> training = heights(svg, 0), validation = heights(svg, 1);
  // From 2 at the top (50) to 1 at the bottom (430).
  EXPECT_EQ(training, (std::vector<double>{50, 240, 430}));
  EXPECT_EQ(validation, (std::vector<double>{145, 335}));
}

TEST(LearningCurve, DrawsNatsWhereBytesAreUnknown) {
  const std::string svg = learning_curve_svg(
      "{\"tokens\":100,\"loss\":4}\n{\"tokens\":200,\"loss\":3,\"bits_per_byte\":1}\n");
  EXPECT_NE(svg.find("nats per token"), std::string::npos);
  EXPECT_EQ(svg.find("validation"), std::string::npos);
  EXPECT_EQ(heights(svg, 0).size(), 2u);
}

TEST(LearningCurve, IsNothingWithoutALoss) {
  EXPECT_EQ(learning_curve_svg(""), "");
  EXPECT_EQ(learning_curve_svg("x\n[]\n{\"tokens\":\"a\",\"loss\":1}\n{\"loss\":1}\n"), "");
}

TEST(LearningCurve, AveragesLongRuns) {
  std::string metrics;
  for (int step = 1; step <= 3000; ++step) {
    metrics += fmt::format("{{\"tokens\":{},\"loss\":{}}}\n", step, step % 2 == 0 ? 1 : 3);
  }
  const std::vector<double> points = heights(learning_curve_svg(metrics), 0);
  EXPECT_EQ(points.size(), 300u);
  for (const double y : points) EXPECT_EQ(y, points[0]);
}

TEST(LearningCurve, LiesInTheRunsFolder) {
  const TemporaryFolder folder;
  EXPECT_THROW(draw_learning_curve(folder.path()), Error);
  save(folder, "metrics.jsonl", "");
  draw_learning_curve(folder.path());
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "learning_curve.svg"));
  save(folder, "metrics.jsonl", "{\"tokens\":1,\"loss\":1}\n");
  draw_learning_curve(folder.path());
  EXPECT_TRUE(read_text_file(folder.path() / "learning_curve.svg").ends_with("</svg>\n"));
}

}  // namespace
}  // namespace rookery
