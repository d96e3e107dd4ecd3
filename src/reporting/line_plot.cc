#include "reporting/line_plot.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <iterator>
#include <utility>
#include <vector>

#include "core/error.h"

namespace rookery {
namespace {

constexpr double kWidth = 800, kHeight = 500;
constexpr double kLeft = 80, kRight = 780, kTop = 50, kBottom = 430;
constexpr int kMostTicks = 16;
constexpr std::string_view kColours[] = {"#1f6fb2", "#d1571f", "#3d8f4a", "#7b4fa6"};

// Text for XML. What XML 1.0 cannot express becomes '?'.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += static_cast<unsigned char>(c) < ' ' ? '?' : c;
    }
  }
  return result;
}

// 1, 2 or 5 times a power of ten, so that a range has about five steps.
double step_of(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 5)));
  const double part = range / 5 / power;
  return power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escaped(text));
}

std::string line_between(double x1, double y1, double x2, double y2, std::string_view colour) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1, x2,
      y2, colour);
}

// The points of a line that can be drawn.
struct Drawn {
  std::string_view name, colour;
  std::vector<PlotPoint> points;
  bool dots;
};

std::vector<Drawn> drawable(std::span<const PlotLine> lines) {
  assert(lines.size() <= std::size(kColours));
  std::vector<Drawn> all;
  for (size_t i = 0; i < lines.size(); ++i) {
    Drawn line{lines[i].name, kColours[i], {}, lines[i].dots};
    for (const PlotPoint& p : lines[i].points) {
      if (!(p.x > 0) || !std::isfinite(p.x) || !std::isfinite(p.y)) continue;
      line.points.push_back(p);
      if (!std::isfinite(p.error)) line.points.back().error = 0;
    }
    if (!line.points.empty()) all.push_back(std::move(line));
  }
  check(!all.empty()) || fail("nothing to plot: no point is finite");
  return all;
}

// Where x lies between the left end (0) and the right (1), and which x get a tick.
struct Layout {
  std::function<double(double x)> place;
  std::vector<double> ticks;
};

Layout powers_of_two(double least, double most) {
  const int first = static_cast<int>(std::floor(std::log2(least)));
  const int last = std::max(first + 1, static_cast<int>(std::ceil(std::log2(most))));
  Layout layout{[=](double x) { return (std::log2(x) - first) / (last - first); }, {}};
  const int every = (last - first + kMostTicks - 1) / kMostTicks;
  for (int power = first; power <= last; power += every) layout.ticks.push_back(std::exp2(power));
  return layout;
}

Layout linear(double most) {
  const double step = step_of(most);
  const int steps = static_cast<int>(std::ceil(most / step * (1 - 1e-9)));
  Layout layout{[=](double x) { return x / (step * steps); }, {}};
  for (int i = 0; i <= steps; ++i) layout.ticks.push_back(i * step);
  return layout;
}

}  // namespace

std::string lines_plot_svg(std::span<const PlotLine> lines, const PlotLabels& labels,
                           PlotAxis axis) {
  const std::vector<Drawn> all = drawable(lines);
  double low = INFINITY, high = -INFINITY, least = INFINITY, most = 0;
  for (const Drawn& line : all) {
    for (const PlotPoint& p : line.points) {
      low = std::min(low, p.y - p.error);
      high = std::max(high, p.y + p.error);
    }
    least = std::min(least, line.points.front().x);
    most = std::max(most, line.points.back().x);
  }
  // A line without height gets room of a thousandth on both sides.
  const double room = std::max(1e-6, 1e-3 * std::max(std::abs(low), std::abs(high)));
  if (high - low < room) {
    low -= room;
    high += room;
  }
  const double step = step_of(high - low);
  low = std::floor(low / step) * step;
  high = std::ceil(high / step) * step;
  const Layout layout = axis == PlotAxis::kLinear ? linear(most) : powers_of_two(least, most);
  const auto at_x = [&](double x) { return kLeft + layout.place(x) * (kRight - kLeft); };
  const auto at_y = [&](double y) { return kBottom - (y - low) / (high - low) * (kBottom - kTop); };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"sans-serif\" font-size=\"14\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth, kHeight);
  svg += text_at(kWidth / 2, 28, "middle", labels.title);
  svg += text_at((kLeft + kRight) / 2, kHeight - 20, "middle", labels.x);
  svg += fmt::format("<g transform=\"translate(22 {:.1f}) rotate(-90)\">{}</g>\n",
                     (kTop + kBottom) / 2, text_at(0, 0, "middle", labels.y));

  for (const double tick : layout.ticks) {
    const double x = at_x(tick);
    svg += line_between(x, kTop, x, kBottom, "#dddddd");
    svg += text_at(x, kBottom + 20, "middle", fmt::format("{:g}", tick));
  }
  const int steps = static_cast<int>(std::lround((high - low) / step));
  for (int i = 0; i <= steps; ++i) {
    const double y = low + i * step;
    svg += line_between(kLeft, at_y(y), kRight, at_y(y), "#dddddd");
    // Nothing but rounding is left of a zero in the middle.
    svg += text_at(kLeft - 8, at_y(y) + 5, "end",
                   fmt::format("{:g}", std::abs(y) < 1e-9 * step ? 0.0 : y));
  }
  svg += line_between(kLeft, kBottom, kRight, kBottom, "black");
  svg += line_between(kLeft, kTop, kLeft, kBottom, "black");

  double legend = kTop + 20;
  for (const Drawn& line : all) {
    std::string path;
    for (const PlotPoint& p : line.points) {
      if (p.error > 0) {
        svg += line_between(at_x(p.x), at_y(p.y - p.error), at_x(p.x), at_y(p.y + p.error),
                            line.colour);
      }
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", at_x(p.x), at_y(p.y));
    }
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                       path, line.colour);
    for (const PlotPoint& p : line.points) {
      if (!line.dots) break;
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", at_x(p.x),
                         at_y(p.y), line.colour);
    }
    if (line.name.empty()) continue;
    svg += line_between(kRight - 150, legend - 5, kRight - 120, legend - 5, line.colour);
    svg += text_at(kRight - 112, legend, "start", line.name);
    legend += 20;
  }
  return svg + "</svg>\n";
}

std::string line_plot_svg(std::span<const PlotPoint> points, const PlotLabels& labels) {
  const PlotLine line{"", points};
  return lines_plot_svg({&line, 1}, labels, PlotAxis::kPowersOfTwo);
}

}  // namespace rookery
