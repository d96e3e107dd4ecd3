// Lines of points as a picture (SVG 1.1): loss by position, loss over a training run.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rookery {

struct PlotPoint {
  double x = 1, y = 0;
  double error = 0;  // half the height of its bar; 0: none
};

struct PlotLine {
  std::string_view name;  // for the legend; empty: none
  std::span<const PlotPoint> points;
  bool dots = true;  // one for each point
};

struct PlotLabels {
  std::string_view title, x, y;
};

// How x is laid out: by powers of two from the first to the last point, or evenly from 0.
enum class PlotAxis { kPowersOfTwo, kLinear };

// 800 x 500 units, at most four lines. Points with x > 0, ascending in each line; those that are
// not finite are left out, as are lines of which nothing remains. Throws Error if no point remains.
std::string lines_plot_svg(std::span<const PlotLine> lines, const PlotLabels& labels,
                           PlotAxis axis);

// One line over powers of two.
std::string line_plot_svg(std::span<const PlotPoint> points, const PlotLabels& labels);

}  // namespace rookery
