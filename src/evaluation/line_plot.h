// A line of points as a picture (SVG 1.1), with a logarithmic x axis: loss by position.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rookery {

struct PlotPoint {
  double x = 1, y = 0;
  double error = 0;  // half the height of its bar; 0: none
};

struct PlotLabels {
  std::string_view title, x, y;
};

// 800 x 500 units. Points with x > 0, ascending; those that are not finite are left out. Throws
// Error if none remains.
std::string line_plot_svg(std::span<const PlotPoint> points, const PlotLabels& labels);

}  // namespace rookery
