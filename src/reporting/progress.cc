// Progress on a terminal or in a log file.
#include "reporting/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

#include <fmt/format.h>

#include "reporting/numbers.h"

namespace rookery {
namespace {

constexpr double kLiveInterval = 0.1;  // seconds
constexpr int kPlainWidth = 200;
constexpr int kNarrowestBar = 8, kWidestBar = 30;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A terminal that can return to the beginning of a line and clear it.
bool is_live_terminal(std::FILE* out) {
  const char* term = std::getenv("TERM");
  return isatty(fileno(out)) && !(term && std::string_view(term) == "dumb");
}

int terminal_width(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool begins_character(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }

int columns(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), begins_character));
}

// The first `width` characters.
std::string_view cut(std::string_view text, int width) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (begins_character(text[i]) && width-- <= 0) return text.substr(0, i);
  }
  return text;
}

// Does not fail: work must not end because nobody can watch it any more.
void put(std::FILE* out, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
}

void append(std::string& line, std::string_view part) {
  if (part.empty()) return;
  if (!line.empty()) line += "  ";
  line += part;
}

}  // namespace

std::string progress_line(std::string_view title, int64_t done, int64_t total,
                          std::string_view fields, double seconds_left, int width) {
  std::string head(title), tail;
  const double fraction =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
  // Rounded down: 100% is for what is done.
  if (total > 0) append(head, fmt::format("{:3}%", static_cast<int>(fraction * 100)));
  append(tail, total > 0 ? fmt::format("{}/{}", done, total) : fmt::format("{}", done));
  append(tail, fields);
  if (total > 0 && seconds_left >= 0) append(tail, format_duration(seconds_left) + " left");

  std::string line = head;
  const int room = width - columns(head) - columns(tail) - 2 - 2 - 2;  // two gaps, two brackets
  if (total > 0 && room >= kNarrowestBar) {
    const int size = std::min(room, kWidestBar);
    const int filled = static_cast<int>(fraction * size);
    append(line, fmt::format("[{}{}]", std::string(filled, '='), std::string(size - filled, ' ')));
  }
  append(line, tail);
  return std::string(cut(line, std::max(width, 0)));
}

Progress::Progress(std::FILE* out, ProgressOptions options)
    : out_(out), options_(std::move(options)), done_(options_.start) {
  if (!options_.clock) options_.clock = steady_seconds;
  terminal_ = options_.terminal.value_or(is_live_terminal(out));
  began_ = options_.clock();
  shown_ =
      terminal_ ? began_ - kLiveInterval : began_;  // a terminal shows the first update at once
}

Progress::~Progress() {
  if (live_) put(out_, "\n");
}

double Progress::seconds_left() const {
  const int64_t done_here = done_ - options_.start;
  if (done_here <= 0) return -1;
  return (options_.clock() - began_) * static_cast<double>(options_.total - done_) /
         static_cast<double>(done_here);
}

void Progress::draw() {
  // A line that fills the last column would wrap on some terminals.
  const int width = terminal_ ? options_.width.value_or(terminal_width(out_)) - 1 : kPlainWidth;
  const std::string line = progress_line(options_.title, done_, options_.total, fields_,
                                         finished_ ? -1 : seconds_left(), width);
  put(out_, terminal_ ? "\r" + line + "\x1b[K" : line + "\n");
  live_ = terminal_;
}

void Progress::update(int64_t done, std::string_view fields) {
  if (finished_) return;
  done_ = done;
  fields_ = fields;
  const double now = options_.clock();
  if (now - shown_ < (terminal_ ? kLiveInterval : options_.plain_interval)) return;
  shown_ = now;
  draw();
}

void Progress::message(std::string_view line) {
  const bool redraw = live_;
  put(out_, fmt::format("{}{}\n", live_ ? "\r\x1b[K" : "", line));
  live_ = false;
  if (redraw) draw();
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  append(fields_, "in " + format_duration(options_.clock() - began_));
  draw();
  if (live_) put(out_, "\n");
  live_ = false;
}

}  // namespace rookery
