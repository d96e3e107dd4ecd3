// Keeps what a training run measures: metrics.jsonl for programs and people, and TensorBoard's
// event files. Both are written without any library; the formats are TFRecord and the protobuf
// message tensorflow.Event.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rookery {

// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as in RFC 3720.
uint32_t crc32c(std::string_view bytes);

struct Metric {
  std::string name;  // for example "loss"; TensorBoard groups "train/loss" under "train"
  double value = 0;
};

// One writer per folder. Each record is flushed, so that a crash loses none that was written.
class MetricsLog {
 public:
  static constexpr int64_t kNewRun = -1;

  // Opens <folder>/metrics.jsonl and a new events.out.tfevents.* file; creates the folder. A run
  // resumed after `last_step` steps drops the lines of later steps, which it is about to repeat;
  // kNewRun drops them all. The old file is replaced only when its successor is complete.
  // TensorBoard is told to forget the same steps. Throws Error if the folder cannot be written or
  // if a line of metrics.jsonl cannot be understood (a torn last line is dropped).
  explicit MetricsLog(const std::filesystem::path& folder, int64_t last_step = kNewRun);

  // Appends {"step": ..., "wall_time": seconds since 1970, name: value, ...} as one line (NaN and
  // infinities as null), and the values as float32 scalars to the event file. "step" and
  // "wall_time" are taken as names. Throws Error if writing fails, once: training may go on without
  // its log, and later calls do nothing.
  void record(int64_t step, const std::vector<Metric>& metrics);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  struct Output {
    std::filesystem::path path;
    std::unique_ptr<std::FILE, Close> file;
  };

  void write(Output& output, std::string_view bytes);
  void write_event(std::string_view event);

  Output lines_, events_;
  bool failed_ = false;
};

}  // namespace rookery
