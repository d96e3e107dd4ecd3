#include "reporting/learning_curve.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "io/file.h"
#include "reporting/line_plot.h"

namespace rookery {
namespace {

// What one line of metrics.jsonl says of one kind of loss.
struct Losses {
  std::vector<PlotPoint> nats, bits;  // x: millions of tokens

  void add(const nlohmann::json& line, double x, const char* nats_key, const char* bits_key) {
    const auto number = [&](const char* key) -> std::optional<double> {
      const auto found = line.find(key);
      if (found == line.end() || !found->is_number()) return std::nullopt;
      return found->get<double>();
    };
    if (const auto value = number(nats_key)) nats.push_back({x, *value});
    if (const auto value = number(bits_key)) bits.push_back({x, *value});
  }
};

// One step's loss jumps about: at most kMost points, each the mean of as many neighbours.
std::vector<PlotPoint> means(const std::vector<PlotPoint>& points) {
  constexpr size_t kMost = 300;
  const size_t together = (points.size() + kMost - 1) / kMost;
  std::vector<PlotPoint> result;
  for (size_t first = 0; first < points.size(); first += together) {
    const size_t end = std::min(first + together, points.size());
    PlotPoint mean{0, 0};
    for (size_t i = first; i < end; ++i) {
      mean.x += points[i].x / static_cast<double>(end - first);
      mean.y += points[i].y / static_cast<double>(end - first);
    }
    result.push_back(mean);
  }
  return result;
}

}  // namespace

std::string learning_curve_svg(std::string_view metrics) {
  Losses training, validation;
  for (size_t begin = 0; begin < metrics.size();) {
    const size_t end = std::min(metrics.find('\n', begin), metrics.size());
    const auto line = nlohmann::json::parse(metrics.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!line.is_object()) continue;
    const auto tokens = line.find("tokens");
    if (tokens == line.end() || !tokens->is_number()) continue;
    const double x = tokens->get<double>() / 1e6;
    training.add(line, x, "loss", "bits_per_byte");
    validation.add(line, x, "validation_loss", "validation_bits_per_byte");
  }
  if (training.nats.empty()) return "";
  const bool in_bits = training.bits.size() == training.nats.size() &&
                       validation.bits.size() == validation.nats.size();
  const std::vector<PlotPoint> smooth = means(in_bits ? training.bits : training.nats);
  const PlotLine lines[] = {{"training", smooth, /*dots=*/false},
                            {"validation", in_bits ? validation.bits : validation.nats}};
  return lines_plot_svg(lines,
                        {.title = "Learning curve",
                         .x = "million tokens seen",
                         .y = in_bits ? "bits per byte" : "nats per token"},
                        PlotAxis::kLinear);
}

void draw_learning_curve(const std::filesystem::path& folder) {
  const std::string svg = learning_curve_svg(read_text_file(folder / "metrics.jsonl"));
  if (svg.empty()) return;
  AtomicFile file(folder / "learning_curve.svg");
  file.write(svg.data(), static_cast<int64_t>(svg.size()));
  file.commit();
}

}  // namespace rookery
