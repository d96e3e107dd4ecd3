// The arrows of docs/map.md: which folder of src/ may include which, what the public headers
// include, and that nothing but the command line includes CLI11. Reads every #include.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

// From a folder to folders, with spaces between; "*" is every folder but cli. A folder may always
// include from itself. Nothing includes cli. "rookery" is include/rookery, the public headers: core
// includes the one with the exception, and the facade defines what the other declares.
constexpr struct {
  std::string_view from, to;
} kArrows[] = {
    {"rookery", ""},
    {"core", "rookery"},
    {"io", "core"},
    {"quantization", "core"},
    {"distributed", "core"},
    {"tokenizers", "io core"},
    {"reporting", "io core"},
    {"checking", "io core"},
    {"ops", "quantization checking core"},
    {"models", "ops io core"},
    {"formats", "io quantization core"},
    {"checkpoints", "formats models tokenizers io core"},
    {"text", "tokenizers core"},
    {"data", "text tokenizers formats io core"},
    {"inference", "models ops core"},
    {"generation", "inference checkpoints models text tokenizers formats io core"},
    {"training",
     "inference models ops data distributed checkpoints formats text tokenizers checking reporting "
     "io core"},
    {"evaluation", "inference models ops data text tokenizers formats reporting io core"},
    {"inspect", "inference models ops data text tokenizers formats reporting io core"},
    {"benchmarks",
     "training inference models ops data distributed checkpoints formats text tokenizers checking "
     "reporting quantization io core"},
    {"server", "generation inference checkpoints models text tokenizers formats io core"},
    {"facade", "*"},
    {"bindings", "*"},
    {"cli", "*"},
};

constexpr std::string_view kFacadeHeader = "rookery/rookery.hpp";

// Libraries whose headers stand in quotes, as their own documentation writes them.
constexpr std::string_view kLibraries[] = {"hwy"};

struct Include {
  std::string file;    // that has the line, from src/: "ops/wkv4/wkv4.cc"
  std::string header;  // as written: "core/tensor.h"
  bool quoted = true;  // "core/tensor.h", not <core/tensor.h>
};

std::string folder_of(std::string_view path) { return std::string(path.substr(0, path.find('/'))); }

bool is_folder(std::string_view name) {
  return std::any_of(std::begin(kArrows), std::end(kArrows),
                     [&](const auto& arrow) { return arrow.from == name; });
}

// Whether a file serves tests and benches only. Such a file may include what it tests.
bool is_test(std::string_view path) {
  return path.ends_with("_test.cc") || path.ends_with("_bench.cc") ||
         path.ends_with("_for_tests.h") || path.ends_with("/operator_test.h");
}

bool has_arrow(std::string_view from, std::string_view to) {
  if (from == to) return true;
  for (const auto& arrow : kArrows) {
    if (arrow.from != from) continue;
    if (arrow.to == "*") return to != "cli";
    return (" " + std::string(arrow.to) + " ").find(" " + std::string(to) + " ") !=
           std::string::npos;
  }
  return false;
}

// "vector", "cstdint": of the standard library, and not "unistd.h" or "fmt/format.h".
bool is_standard(std::string_view header) {
  return !header.empty() && header.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789") ==
                                std::string_view::npos;
}

// Why this include is wrong; empty if it is not.
std::string problem_of(const Include& include,
                       const std::function<bool(const std::string&)>& exists) {
  const std::string from = folder_of(include.file), to = folder_of(include.header);
  if (!is_folder(from)) return "folder '" + from + "' is not in the table";
  if (!include.quoted) {
    if (is_folder(to)) return "our own headers stand in quotes";
    if (to == "CLI" && from != "cli") return "only cli includes CLI11";
    if (from == "rookery" && !is_standard(include.header)) return "not a standard header";
    return "";
  }
  if (std::find(std::begin(kLibraries), std::end(kLibraries), to) != std::end(kLibraries))
    return "";
  if (!exists(include.header)) return "no such file in src/ (includes are written from there)";
  if (!is_folder(to)) return "folder '" + to + "' is not in the table";
  if (is_test(include.file)) return "";
  if (is_test(include.header)) return "a header for tests in code that is no test";
  if (include.header == kFacadeHeader && from != "facade" && from != "bindings") {
    return "only the facade includes its own header";
  }
  if (!has_arrow(from, to)) return "no arrow from " + from + " to " + to;
  return "";
}

const fs::path kRoot = ROOKERY_SOURCE_DIR, kSource = kRoot / "src", kPublic = kRoot / "include";

bool is_code(const fs::path& path) {
  for (const char* extension : {".h", ".hpp", ".cc", ".cu", ".cuh"}) {
    if (path.extension() == extension) return true;
  }
  return false;
}

// Of a file in `root`, which file names are relative to.
std::vector<Include> includes_of(const fs::path& path, const fs::path& root) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s*(["<])([^">]+)[">])re");
  std::vector<Include> includes;
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, kInclude)) continue;
    includes.push_back(
        {path.lexically_relative(root).generic_string(), match[2], match[1] == "\""});
  }
  return includes;
}

TEST(Arrows, EveryIncludeFollowsThem) {
  const auto exists = [](const std::string& header) {
    // Not '..' and not '.': one file has one name.
    return fs::path(header).lexically_normal() == header &&
           (fs::is_regular_file(kSource / header) || fs::is_regular_file(kPublic / header));
  };
  std::map<std::string, int> checked;
  for (const fs::path& root : {kSource, kPublic}) {
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!is_code(entry.path())) continue;
      for (const Include& include : includes_of(entry.path(), root)) {
        ++checked[folder_of(include.file)];
        const std::string problem = problem_of(include, exists);
        EXPECT_EQ(problem, "") << include.file << " includes " << include.header;
      }
    }
  }
  // Reading nothing would pass, too.
  for (const char* folder : {"core", "ops", "models", "training", "inference", "cli", "rookery"}) {
    EXPECT_GT(checked[folder], 0) << folder;
  }
}

// The tests, which may include what they test, and the examples, which are programs of strangers.
TEST(Arrows, NothingElseIncludesTheCommandLine) {
  int checked = 0;
  for (const char* folder : {"tests", "examples"}) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!is_code(entry.path())) continue;
      for (const Include& include : includes_of(entry.path(), kRoot)) {
        ++checked;
        EXPECT_FALSE(include.header.starts_with("CLI/") ||
                     (include.header.starts_with("cli/") && fs::exists(kSource / include.header)))
            << include.file << " includes " << include.header;
        EXPECT_TRUE(folder != std::string_view("examples") || include.header == kFacadeHeader ||
                    is_standard(include.header))
            << include.file << " includes " << include.header;
      }
    }
  }
  EXPECT_GT(checked, 10);
}

TEST(Arrows, PointOneWay) {
  // Folders in the table point to folders above them, so there is no circle.
  std::vector<std::string_view> above;
  for (const auto& arrow : kArrows) {
    for (const auto& other : kArrows) {
      if (other.from == arrow.from || !has_arrow(arrow.from, other.from)) continue;
      if (arrow.to == "*") continue;
      EXPECT_NE(std::find(above.begin(), above.end(), other.from), above.end())
          << arrow.from << " -> " << other.from;
    }
    above.push_back(arrow.from);
  }
}

// The checker itself, with wrong includes: each must be noticed.
TEST(Arrows, NoticesWrongIncludes) {
  const auto yes = [](const std::string&) { return true; };
  const auto no = [](const std::string&) { return false; };
  const auto wrong = [&](const char* file, const char* header) {
    EXPECT_NE(problem_of({file, header}, yes), "") << file << " -> " << header;
  };
  const auto right = [&](const char* file, const char* header) {
    EXPECT_EQ(problem_of({file, header}, yes), "") << file << " -> " << header;
  };
  right("ops/wkv4/wkv4.cc", "ops/dispatch.h");
  right("ops/cross_entropy/cross_entropy.h", "ops/linear/linear.h");
  right("ops/wkv4/wkv4_cpu.cc", "hwy/foreach_target.h");
  right("cli/train.cc", "training/trainer.h");
  right("cli/train.cc", "cli/options.h");
  right("bindings/c_api.cc", "inference/session.h");
  right("facade/train.cc", "training/trainer.h");
  right("facade/train.cc", "rookery/rookery.hpp");
  right("core/error.h", "rookery/error.hpp");
  right("rookery/rookery.hpp", "rookery/error.hpp");
  wrong("core/tape.cc", "ops/linear/linear.h");
  wrong("ops/linear/linear.cc", "models/model.h");
  wrong("models/model.cc", "formats/safetensors.h");     // models know no file format
  wrong("inference/session.cc", "text/stop_matcher.h");  // inference knows no text
  wrong("inference/session.cc", "tokenizers/bytes.h");
  wrong("formats/pth.cc", "models/parameters.h");
  wrong("server/http.cc", "training/trainer.h");
  wrong("training/trainer.cc", "cli/options.h");
  wrong("core/tape.cc", "checking/checked_run.h");
  wrong("inference/session.cc", "generation/conversation.h");
  wrong("bindings/c_api.cc", "cli/options.h");
  wrong("facade/train.cc", "cli/options.h");
  wrong("training/trainer.cc", "facade/language_model.h");
  wrong("training/trainer.cc", "rookery/rookery.hpp");
  wrong("rookery/rookery.hpp", "core/error.h");
  wrong("utils/strings.cc", "core/error.h");  // a folder nobody planned
  wrong("core/tensor.h", "utils/strings.h");
  // Tests may include what they test, and nobody else may include their headers.
  right("models/rwkv4_test.cc", "training/trainer.h");
  right("checking/operator_test.h", "ops/dispatch.h");
  right("formats/files_for_tests.h", "formats/tensor_source.h");
  right("formats/pth_test.cc", "formats/files_for_tests.h");
  wrong("ops/wkv4/wkv4.cc", "checking/operator_test.h");
  wrong("formats/pth.cc", "formats/files_for_tests.h");
  // Files that are not there, in tests as well.
  EXPECT_NE(problem_of({"ops/wkv4/wkv4.cc", "core/gone.h"}, no), "");
  EXPECT_NE(problem_of({"ops/wkv4/wkv4_test.cc", "core/gone.h"}, no), "");
  EXPECT_EQ(problem_of({"ops/wkv4/wkv4_cpu.cc", "hwy/highway.h"}, no), "");
  // Angle brackets would hide an arrow.
  EXPECT_NE(problem_of({"core/tape.cc", "ops/linear/linear.h", false}, yes), "");
  EXPECT_NE(problem_of({"facade/chat.cc", "CLI/CLI.hpp", false}, no), "");
  EXPECT_EQ(problem_of({"cli/options.h", "CLI/CLI.hpp", false}, no), "");
  // The public headers include standard ones only.
  EXPECT_NE(problem_of({"rookery/rookery.hpp", "fmt/format.h", false}, no), "");
  EXPECT_NE(problem_of({"rookery/rookery.hpp", "unistd.h", false}, no), "");
  EXPECT_EQ(problem_of({"rookery/rookery.hpp", "string_view", false}, no), "");
  EXPECT_EQ(problem_of({"core/tape.cc", "vector", false}, no), "");
  EXPECT_EQ(problem_of({"core/error.h", "fmt/format.h", false}, no), "");
}

}  // namespace
