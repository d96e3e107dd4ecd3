// The files of a training run's measurements.
//
// TFRecord frame: u64 length, u32 masked CRC of those 8 bytes, the bytes, u32 masked CRC of the
// bytes, all little-endian; masked(c) = rotate_right(c, 15) + 0xA282EAD8. Fields of the messages
// used here:
//   Event        1 wall_time double, 2 step int64, 3 file_version string, 5 summary, 7 session_log
//   Summary      1 value, repeated        Summary.Value   1 tag string, 2 simple_value float
//   SessionLog   1 status, where 1 is START: "what was logged at this step or later is void"
#include "training/metrics.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <optional>
#include <system_error>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}();

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

void put_little_endian(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

// The four protobuf encodings in use. `field` is below 16, so that every key is one byte.
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void put_integer(std::string& out, int field, int64_t value) {
  out += static_cast<char>(field << 3 | 0);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_double(std::string& out, int field, double value) {
  out += static_cast<char>(field << 3 | 1);
  put_little_endian(out, std::bit_cast<uint64_t>(value), 8);
}

void put_float(std::string& out, int field, float value) {
  out += static_cast<char>(field << 3 | 5);
  put_little_endian(out, std::bit_cast<uint32_t>(value), 4);
}

void put_bytes(std::string& out, int field, std::string_view value) {
  out += static_cast<char>(field << 3 | 2);
  put_varint(out, value.size());
  out += value;
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0 || name[0] == 0) return "unknown";
  return name.data();
}

[[noreturn]] void fail_to(std::string_view what, const fs::path& path, int code) {
  fail("cannot {} '{}': {}; free some space or choose another folder", what, path.string(),
       std::generic_category().message(code));
}

// The "step" of one line of metrics.jsonl, or nothing if it is not such a line.
std::optional<int64_t> step_of(const std::string& line) {
  const nlohmann::json value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer())
    return {};
  return value["step"].get<int64_t>();
}

// The lines of `path` up to `last_step`, each with its line end.
std::string lines_to_keep(const fs::path& path, int64_t last_step) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_to("read", path, errno);
  std::string kept, line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const bool torn = in.eof();  // the last line, without its end
    const std::optional<int64_t> step = torn ? std::nullopt : step_of(line);
    check(step || torn) || fail(
                               "line {} of '{}' is not a record of a step: expected a JSON object "
                               "with an integer \"step\"; remove the line, or move the file away",
                               number, path.string());
    if (step && *step <= last_step) kept += line + '\n';
  }
  return kept;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes)
    crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

MetricsLog::MetricsLog(const fs::path& folder, int64_t last_step) {
  check(last_step >= kNewRun) ||
      fail("a run cannot be resumed after step {}: expected 0 or more", last_step);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_to("create", folder, error.value());

  const auto open = [](const fs::path& path, const char* mode) {
    Output output{path, std::unique_ptr<std::FILE, Close>(std::fopen(path.c_str(), mode))};
    if (!output.file) fail_to("write", path, errno);
    return output;
  };
  const fs::path path = folder / "metrics.jsonl";
  if (fs::exists(path, error)) {
    const std::string kept = last_step == kNewRun ? std::string() : lines_to_keep(path, last_step);
    lines_ = open(folder / "metrics.jsonl.new", "wbe");
    write(lines_, kept);
    if (fsync(fileno(lines_.file.get())) != 0) fail_to("write", lines_.path, errno);
    fs::rename(lines_.path, path, error);
    if (error) fail_to("replace", path, error.value());
  }
  lines_ = open(path, "abe");

  // A second run in the same second on the same host takes the next free name.
  const double now = seconds_since_1970();
  const std::string name =
      fmt::format("events.out.tfevents.{:010d}.{}", static_cast<int64_t>(now), host_name());
  fs::path events = folder / name;
  for (int copy = 1; fs::exists(events, error); ++copy) {
    events = folder / fmt::format("{}.{}", name, copy);
  }
  events_ = open(events, "wbxe");

  std::string version;
  put_double(version, 1, now);
  put_bytes(version, 3, "brain.Event:2");
  write_event(version);
  if (last_step != kNewRun) {
    std::string session, restart;
    put_integer(session, 1, 1);
    put_double(restart, 1, now);
    put_integer(restart, 2, last_step + 1);
    put_bytes(restart, 7, session);
    write_event(restart);
  }
}

void MetricsLog::record(int64_t step, const std::vector<Metric>& metrics) {
  if (failed_) return;
  const double now = seconds_since_1970();

  nlohmann::ordered_json line = {{"step", step}, {"wall_time", now}};
  std::string summary;
  for (const Metric& metric : metrics) {
    line[metric.name] = metric.value;
    std::string value;
    put_bytes(value, 1, metric.name);
    put_float(value, 2, static_cast<float>(metric.value));
    put_bytes(summary, 1, value);
  }
  std::string event;
  put_double(event, 1, now);
  put_integer(event, 2, step);
  put_bytes(event, 5, summary);

  write(lines_, line.dump() + '\n');
  write_event(event);
}

void MetricsLog::write_event(std::string_view event) {
  std::string length, frame;
  put_little_endian(length, event.size(), 8);
  frame = length;
  put_little_endian(frame, masked_crc(length), 4);
  frame += event;
  put_little_endian(frame, masked_crc(event), 4);
  write(events_, frame);
}

void MetricsLog::write(Output& output, std::string_view bytes) {
  std::FILE* file = output.file.get();
  if (std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fflush(file) == 0)
    return;
  failed_ = true;
  fail_to("write", output.path, errno);
}

}  // namespace rookery
