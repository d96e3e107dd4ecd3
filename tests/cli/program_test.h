// Running the program from a test, as its users do.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/file.h"

extern char** environ;

namespace rookery {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Result {
  int code = -1;  // -signal if one ended it
  std::string out, err;
};

// A folder of its own for each test, and the program run in it.
class Cli : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "rookery-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // Starts the program with these descriptors; returns its process id.
  pid_t start(const std::vector<std::string>& arguments, int in, int out, int err) const {
    std::vector<std::string> words = {ROOKERY_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    pid_t child = -1;
    EXPECT_EQ(::posix_spawn(&child, ROOKERY_PROGRAM, &actions, nullptr, pointers.data(), environ),
              0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }

  static int wait_for(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  int open_file(const std::string& name, int flags) const {
    const int descriptor = ::open(path(name).c_str(), flags | O_CLOEXEC, 0600);
    EXPECT_GE(descriptor, 0) << name;
    return descriptor;
  }
  int create(const std::string& name) const {
    return open_file(name, O_WRONLY | O_CREAT | O_TRUNC);
  }

  // Runs the program to its end. Files and not pipes, so that nothing can block.
  Result run(const std::vector<std::string>& arguments, const std::string& input = "") const {
    std::ofstream(path("stdin"), std::ios::binary) << input;
    const int in = open_file("stdin", O_RDONLY), out = create("stdout"), err = create("stderr");
    Result result;
    result.code = wait_for(start(arguments, in, out, err));
    for (const int descriptor : {in, out, err}) ::close(descriptor);
    result.out = read_text_file(path("stdout"));
    result.err = read_text_file(path("stderr"));
    return result;
  }

  // A small model whose every number takes part.
  std::string make_model(const std::string& name = "model.safetensors",
                         const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"init",     "--layers", "2",  "--width", "32",
                                          "--scheme", "random",   "-o", path(name)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return path(name);
  }

  Json json_of(const std::vector<std::string>& arguments) const {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return Json::parse(result.out, nullptr, false);
  }

  // One sentence for people on standard error, nothing on standard output.
  void expect_refused(const std::vector<std::string>& arguments, int code,
                      const std::string& words) const {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }

  fs::path folder_;
};

}  // namespace rookery
