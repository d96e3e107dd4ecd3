// The picture of a training run: its losses over the tokens that it has seen.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace rookery {

// The lines of metrics.jsonl as an SVG, in bits per byte where all that is drawn is known in it,
// else in nats per token. Of training the means of equal stretches, of validation every point.
// Lines that are no JSON or lack tokens are passed over. Empty if none has a loss.
std::string learning_curve_svg(std::string_view metrics);

// Writes <folder>/learning_curve.svg from <folder>/metrics.jsonl; nothing if no step had a loss.
// Throws Error if a file cannot be read or written.
void draw_learning_curve(const std::filesystem::path& folder);

}  // namespace rookery
