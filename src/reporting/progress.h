// Shows how far long work has come: one live line on a terminal, plain lines in a file or a pipe.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace rookery {

// One line of progress, at most `width` columns wide: title, fraction, bar, done/total, fields,
// time left. What does not fit is left out: the bar shrinks, then goes, then the end of the line is
// cut. Text is UTF-8 of one column per character. `total` 0 is unknown: no fraction, bar or time
// left. `seconds_left` < 0 is unknown.
std::string progress_line(std::string_view title, int64_t done, int64_t total,
                          std::string_view fields, double seconds_left, int width);

struct ProgressOptions {
  std::string title;  // "train"
  int64_t total = 0;  // 0: unknown
  int64_t start = 0;  // what was done before, by an earlier run; it does not count for the rate
  double plain_interval = 30;  // seconds between two lines when the output is no terminal
  // For tests: is the output a terminal, its columns, a clock in seconds. Found out if empty.
  std::optional<bool> terminal = {};
  std::optional<int> width = {};
  std::function<double()> clock = {};
};

// Not for several threads at once.
class Progress {
 public:
  // `out` is usually stderr, so that results on stdout stay clean; it must outlive this. Shows
  // nothing yet.
  Progress(std::FILE* out, ProgressOptions options);
  // Leaves the cursor on a line of its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of the total is done; `fields` is free text ("loss 2.31  54 Ktok/s"). Cheap: at most 10
  // times a second on a terminal, and once per plain_interval elsewhere, it shows something.
  void update(int64_t done, std::string_view fields = {});

  // Prints a line of text above the bar.
  void message(std::string_view line);

  // Shows the last update whatever the time, with the time taken, and ends the line. Later calls do
  // nothing.
  void finish();

 private:
  double seconds_left() const;
  void draw();

  std::FILE* out_;
  ProgressOptions options_;
  bool terminal_;
  double began_, shown_;
  int64_t done_;
  std::string fields_;
  bool live_ = false;  // the cursor stands behind a live line
  bool finished_ = false;
};

}  // namespace rookery
