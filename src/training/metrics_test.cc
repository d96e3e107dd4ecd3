// Reads back what the log wrote, with a reader of TFRecord and protobuf that shares no code with
// the writer.
#include "training/metrics.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

class MetricsLogTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "rookery_metrics_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder = name;
  }
  void TearDown() override { fs::remove_all(folder); }

  std::string read(const fs::path& path) const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<nlohmann::json> lines() const {
    std::ifstream in(folder / "metrics.jsonl");
    std::vector<nlohmann::json> result;
    for (std::string line; std::getline(in, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  }
  std::vector<fs::path> event_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) {
        files.push_back(entry.path());
      }
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  fs::path folder;
};

struct Field {
  int number = 0;
  uint64_t bits = 0;    // of a number
  std::string content;  // of a string or a message
};

std::vector<Field> parse_message(std::string_view bytes) {
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(bytes.at(at++));
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  const auto take = [&](size_t size) {
    if (size > bytes.size() - at) throw std::out_of_range("a field is longer than its message");
    at += size;
    return bytes.substr(at - size, size);
  };
  std::vector<Field> fields;
  while (at < bytes.size()) {
    const uint64_t key = varint();
    Field field{static_cast<int>(key >> 3), 0, {}};
    switch (key & 7) {
      case 0:
        field.bits = varint();
        break;
      case 1:
        std::memcpy(&field.bits, take(8).data(), 8);
        break;
      case 2:
        field.content = take(varint());
        break;
      case 5:
        std::memcpy(&field.bits, take(4).data(), 4);
        break;
      default:
        throw std::runtime_error("unknown wire type");
    }
    fields.push_back(field);
  }
  return fields;
}

template <class T>
T number(const Field& field) {
  T value;
  std::memcpy(&value, &field.bits, sizeof value);
  return value;
}

// Bit by bit, unlike the table.
uint32_t slow_masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int i = 0; i < 8; ++i) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

std::vector<std::vector<Field>> parse_records(std::string_view bytes) {
  std::vector<std::vector<Field>> events;
  while (!bytes.empty()) {
    uint64_t size;
    uint32_t size_crc, crc;
    std::memcpy(&size, bytes.data(), 8);
    std::memcpy(&size_crc, bytes.data() + 8, 4);
    EXPECT_EQ(size_crc, slow_masked_crc(bytes.substr(0, 8)));
    if (12 + size + 4 > bytes.size()) throw std::out_of_range("a record is longer than the file");
    const std::string_view content = bytes.substr(12, size);
    std::memcpy(&crc, bytes.data() + 12 + size, 4);
    EXPECT_EQ(crc, slow_masked_crc(content));
    events.push_back(parse_message(content));
    bytes.remove_prefix(12 + size + 4);
  }
  return events;
}

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);    // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);  // RFC 3720, B.4
}

TEST_F(MetricsLogTest, WritesLines) {
  MetricsLog log(folder / "new" / "run");
  log.record(1, {{"loss", 2.5}, {"rate", 6e-4}});
  log.record(2, {{"loss", std::nan("")}, {"rate", std::numeric_limits<double>::infinity()}});
  folder /= "new/run";
  const auto read_back = lines();
  folder = folder.parent_path().parent_path();
  ASSERT_EQ(read_back.size(), 2u);
  EXPECT_EQ(read_back[0]["step"], 1);
  EXPECT_EQ(read_back[0]["loss"], 2.5);
  EXPECT_EQ(read_back[0]["rate"], 6e-4);
  EXPECT_NEAR(read_back[0]["wall_time"].get<double>(), static_cast<double>(time(nullptr)), 60);
  EXPECT_TRUE(read_back[1]["loss"].is_null());
  EXPECT_TRUE(read_back[1]["rate"].is_null());
}

TEST_F(MetricsLogTest, ResumeDropsLaterSteps) {
  {
    MetricsLog log(folder);
    for (int64_t step = 1; step <= 10; ++step) log.record(step, {{"loss", 10.0 - step}});
  }
  std::ofstream(folder / "metrics.jsonl", std::ios::app)
      << "{\"step\": 3, \"lo";  // torn by a crash
  {
    MetricsLog log(folder, 6);
    log.record(7, {{"loss", 70}});
  }
  auto read_back = lines();
  ASSERT_EQ(read_back.size(), 7u);
  for (int64_t i = 0; i < 7; ++i) EXPECT_EQ(read_back[i]["step"], i + 1);
  EXPECT_EQ(read_back[5]["loss"], 4);
  EXPECT_EQ(read_back[6]["loss"], 70);
  EXPECT_FALSE(fs::exists(folder / "metrics.jsonl.new"));

  { MetricsLog log(folder); }
  EXPECT_TRUE(lines().empty()) << "a new run starts a new file";
  EXPECT_EQ(event_files().size(), 3u);
}

TEST_F(MetricsLogTest, RefusesToDropWhatItDoesNotUnderstand) {
  const std::string text = "{\"step\": 1}\nnot json\n{\"step\": 2}\n";
  std::ofstream(folder / "metrics.jsonl") << text;
  try {
    MetricsLog log(folder, 5);
    FAIL() << "a foreign line was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos) << error.what();
  }
  EXPECT_EQ(read(folder / "metrics.jsonl"), text);
}

TEST_F(MetricsLogTest, TensorBoardFileReadsBack) {
  const std::string long_name(300, 'n');  // a length of two varint bytes
  {
    MetricsLog log(folder);
    log.record(0, {{"loss", 2.5}, {"train/rate", 6e-4}});
    log.record((int64_t{1} << 40) + 5, {{long_name, -1e10}, {"bad", std::nan("")}});
    log.record(3, {});
  }
  ASSERT_EQ(event_files().size(), 1u);
  const auto events = parse_records(read(event_files()[0]));
  ASSERT_EQ(events.size(), 4u);

  ASSERT_EQ(events[0].size(), 2u);
  EXPECT_EQ(events[0][0].number, 1);
  EXPECT_NEAR(number<double>(events[0][0]), static_cast<double>(time(nullptr)), 60);
  EXPECT_EQ(events[0][1].number, 3);
  EXPECT_EQ(events[0][1].content, "brain.Event:2");

  const auto expect_event = [](const std::vector<Field>& event, int64_t step,
                               const std::vector<std::pair<std::string, float>>& expected) {
    ASSERT_EQ(event.size(), 3u);
    EXPECT_EQ(event[0].number, 1);
    EXPECT_EQ(event[1].number, 2);
    EXPECT_EQ(number<int64_t>(event[1]), step);
    EXPECT_EQ(event[2].number, 5);
    const std::vector<Field> values = parse_message(event[2].content);
    ASSERT_EQ(values.size(), expected.size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i].number, 1);
      const std::vector<Field> value = parse_message(values[i].content);
      ASSERT_EQ(value.size(), 2u);
      EXPECT_EQ(value[0].number, 1);
      EXPECT_EQ(value[0].content, expected[i].first);
      EXPECT_EQ(value[1].number, 2);
      if (!std::isnan(expected[i].second)) {
        EXPECT_EQ(number<float>(value[1]), expected[i].second);
      } else {
        EXPECT_TRUE(std::isnan(number<float>(value[1])));
      }
    }
  };
  expect_event(events[1], 0, {{"loss", 2.5f}, {"train/rate", 6e-4f}});
  expect_event(events[2], (int64_t{1} << 40) + 5, {{long_name, -1e10f}, {"bad", std::nanf("")}});
  expect_event(events[3], 3, {});
}

TEST_F(MetricsLogTest, TensorBoardIsToldWhereARunResumes) {
  { MetricsLog log(folder, 41); }
  const auto events = parse_records(read(event_files().at(0)));
  ASSERT_EQ(events.size(), 2u);
  ASSERT_EQ(events[1].size(), 3u);
  EXPECT_EQ(events[1][1].number, 2);
  EXPECT_EQ(number<int64_t>(events[1][1]), 42);
  EXPECT_EQ(events[1][2].number, 7);
  const std::vector<Field> session = parse_message(events[1][2].content);
  ASSERT_EQ(session.size(), 1u);
  EXPECT_EQ(session[0].number, 1);
  EXPECT_EQ(session[0].bits, 1u);
}

TEST_F(MetricsLogTest, AFullDiskIsAnErrorOnce) {
  MetricsLog log(folder);
  log.record(1, {{"loss", 1}});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  std::string message;
  bool again = false;
  try {
    log.record(2, {{"loss", 1}});
  } catch (const Error& error) {
    message = error.what();
  }
  try {
    log.record(3, {{"loss", 1}});
  } catch (const Error&) {
    again = true;
  }
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("metrics.jsonl"), std::string::npos) << message;
  EXPECT_FALSE(again);
}

TEST_F(MetricsLogTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder / "file") << "x";
  EXPECT_THROW(MetricsLog(folder / "file" / "run"), Error);
  EXPECT_THROW(MetricsLog(folder / "file"), Error);
  EXPECT_THROW(MetricsLog(folder, -2), Error);
}

}  // namespace
}  // namespace rookery
