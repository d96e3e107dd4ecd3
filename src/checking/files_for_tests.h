// For tests: files that are gone afterwards, and the folder of real data.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"

namespace rookery {

// A folder of its own, removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "rookery-test-XXXXXX").string();
    check(::mkdtemp(pattern.data()) != nullptr) || fail("cannot make a folder like {}", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::filesystem::path save(const TemporaryFolder& folder, const std::string& name,
                                  const std::string& bytes) {
  const std::filesystem::path path = folder.path() / name;
  std::filesystem::remove(
      path);  // some file systems flush a file that is shortened and written again
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

// The folder of real text and checkpoints, which is no part of the sources and may be absent:
// ROOKERY_SHARED, or `shared` beside a folder that the test program lies in.
inline std::filesystem::path shared_folder() {
  if (const char* folder = std::getenv("ROOKERY_SHARED")) return folder;
  std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe");
  while (folder.has_relative_path()) {
    folder = folder.parent_path();
    const std::filesystem::path shared = folder / "shared";
    if (std::filesystem::exists(shared / "golden")) return shared;
  }
  return "shared";
}

// Real checkpoints with expected numbers.
inline std::filesystem::path golden_folder() { return shared_folder() / "golden"; }

}  // namespace rookery
