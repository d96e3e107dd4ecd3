#include "io/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <vector>

namespace rookery {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "rookery-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path save(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  int64_t files() const {
    return std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
  }

  template <class F>
  static std::string error_of(F action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(FileTest, MapsAWholeFileAndKeepsItsAddressWhenMoved) {
  MappedFile file(save("a", "abcdefghij"));
  ASSERT_EQ(file.size(), 10);
  EXPECT_EQ(load_at<char>(file.bytes(), 9), 'j');
  EXPECT_EQ(load_at<uint32_t>(file.bytes(), 1), 0x65646362u);
  const std::byte* data = file.bytes().data();
  MappedFile other = std::move(file);
  EXPECT_EQ(other.bytes().data(), data);
  EXPECT_EQ(file.size(), 0);
  file = std::move(other);
  EXPECT_EQ(file.bytes().data(), data);
}

TEST_F(FileTest, RefusesWhatCannotBeMappedAndSaysWhy) {
  const auto open = [](const fs::path& path) { return error_of([&] { MappedFile file(path); }); };
  EXPECT_NE(open(folder_ / "none").find("found nothing there"), std::string::npos);
  EXPECT_NE(open(folder_).find("is a folder"), std::string::npos);
  EXPECT_NE(open(save("empty", "")).find("is empty"), std::string::npos);
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_NE(open(folder_ / "pipe").find("is a device or a pipe"), std::string::npos);
  EXPECT_NE(open(save("file", "x") / "below").find("cannot read"), std::string::npos);
}

TEST_F(FileTest, ReadsTexts) {
  EXPECT_EQ(read_text_file(save("a", "one\r\ntwo")), "one\r\ntwo");
  EXPECT_EQ(read_text_file(save("b", "")), "");
  const std::string large(200'001, 'x');
  EXPECT_EQ(read_text_file(save("c", large)), large);
  EXPECT_NE(error_of([&] { read_text_file(folder_); }).find("is a folder"), std::string::npos);
  EXPECT_NE(error_of([&] { read_text_file(folder_ / "none"); }).find("found nothing"),
            std::string::npos);
}

TEST_F(FileTest, WritesAllOrNothing) {
  const fs::path path = save("target", "old");
  {
    AtomicFile file(path);
    file.write("new", 3);
    EXPECT_EQ(files(), 2);
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(files(), 1);

  AtomicFile file(path);
  file.write("new ", 4);
  file.write(nullptr, 0);
  file.write("text", 4);
  EXPECT_EQ(file.size(), 8);
  EXPECT_EQ(read_text_file(path), "old");
  file.commit();
  EXPECT_EQ(read_text_file(path), "new text");
  EXPECT_EQ(files(), 1);
}

TEST_F(FileTest, TwoWritersOfOneFileDoNotMix) {
  const fs::path path = folder_ / "target";
  AtomicFile first(path), second(path);
  first.write("first", 5);
  second.write("second", 6);
  second.commit();
  first.commit();
  EXPECT_EQ(read_text_file(path), "first");
  EXPECT_EQ(files(), 1);
}

TEST_F(FileTest, NewFilesHaveTheModeThatTheUserChose) {
  const mode_t before = ::umask(027);
  AtomicFile file(folder_ / "target");
  ::umask(before);
  file.commit();
  struct stat status;
  ASSERT_EQ(::stat((folder_ / "target").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0640u);
}

TEST_F(FileTest, WritesThroughALink) {
  const fs::path path = save("target", "old");
  fs::create_symlink(path, folder_ / "link");
  AtomicFile file(folder_ / "link");
  file.write("new", 3);
  file.commit();
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_text_file(path), "new");
}

TEST_F(FileTest, RefusesTargetsThatAreNotFiles) {
  const auto write = [](const fs::path& path) { return error_of([&] { AtomicFile file(path); }); };
  EXPECT_NE(write(folder_).find("is a folder"), std::string::npos);
  EXPECT_NE(write(folder_ / "").find("is a folder"), std::string::npos);
  EXPECT_NE(write(folder_ / "none" / "file").find("create it first"), std::string::npos);
  EXPECT_NE(write("/dev/null").find("is a device or a pipe"), std::string::npos);
  fs::create_symlink(folder_ / "nowhere", folder_ / "link");
  EXPECT_NE(write(folder_ / "link").find("leads nowhere"), std::string::npos);
  EXPECT_EQ(files(), 1);
}

// A limit on the file size cuts a write in two, as a full disk does.
TEST_F(FileTest, NewFilesReplaceNothingUnasked) {
  require_new_file(folder_ / "a", false);
  const fs::path there = save("a", "text");
  EXPECT_NE(error_of([&] { require_new_file(there, false); }).find("exists already"),
            std::string::npos);
  EXPECT_FALSE(error_of([&] { require_new_file(folder_, false); }).empty());
  require_new_file(there, true);
}

TEST_F(FileTest, AFullDiskLeavesTheOldFile) {
  const fs::path path = save("target", "old");
  const std::vector<char> data(10'000, 'x');
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = error_of([&] {
    AtomicFile file(path);
    file.write(data.data(), 3000);
    file.write(data.data(), static_cast<int64_t>(data.size()));
  });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(error.find("expected to write 10000 bytes after the first 3000, wrote 1096"),
            std::string::npos)
      << error;
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace rookery
