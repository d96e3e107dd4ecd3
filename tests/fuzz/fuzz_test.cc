// Every reader on the inputs in corpus/ (valid files, and files that once were interesting), on all
// their beginnings, and on 10,000 seeded mutations of them. Under a sanitizer this finds what reads
// or writes outside; everywhere it finds what throws something else than Error.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "readers.h"

namespace rookery {

void PrintTo(const Reader& reader, std::ostream* out) { *out << reader.name; }

namespace {

constexpr int kMutations = 10'000;

std::vector<std::string> corpus(const Reader& reader) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(ROOKERY_CORPUS) / reader.name)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

// Whether it is a file of the format; a failure of the test if the reader throws anything else than
// Error.
bool accepts(const Reader& reader, const std::string& input) {
  try {
    reader.read(std::as_bytes(std::span(input)));
    return true;
  } catch (const Error& error) {
    EXPECT_STRNE(error.what(), "");
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw no Error, but: " << error.what();
  }
  return false;
}

// One to four changes: a byte, a number's edge, a piece removed, repeated or taken from another
// input.
std::string mutated(const std::vector<std::string>& inputs, std::mt19937& random) {
  std::string bytes = inputs[random() % inputs.size()];
  for (uint32_t changes = 1 + random() % 4; changes > 0 && !bytes.empty(); --changes) {
    constexpr unsigned char kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    const size_t at = random() % bytes.size();
    const size_t length = std::min<size_t>(1 + random() % 16, bytes.size() - at);
    switch (random() % 6) {
      case 0:
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        std::fill_n(bytes.begin() + at, length,
                    static_cast<char>(kEdges[random() % std::size(kEdges)]));
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(random() % bytes.size(), bytes.substr(at, length));
        break;
      default: {
        const std::string& other = inputs[random() % inputs.size()];
        if (!other.empty())
          bytes.replace(at, length, other.substr(random() % other.size(), length));
      }
    }
  }
  return bytes;
}

class Fuzz : public testing::TestWithParam<Reader> {};

TEST_P(Fuzz, Corpus) {
  const std::vector<std::string> inputs = corpus(GetParam());
  int accepted = 0;
  for (const std::string& input : inputs) accepted += accepts(GetParam(), input) ? 1 : 0;
  EXPECT_GT(accepted, 0) << "of " << inputs.size();
}

TEST_P(Fuzz, Truncations) {
  for (const std::string& input : corpus(GetParam())) {
    // All beginnings of small files, a few hundred of larger ones.
    const size_t step = 1 + input.size() / 400;
    for (size_t length = 0; length < input.size(); length += step) {
      accepts(GetParam(), input.substr(0, length));
    }
  }
}

TEST_P(Fuzz, Mutations) {
  const std::vector<std::string> inputs = corpus(GetParam());
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    SCOPED_TRACE(i);
    accepted += accepts(GetParam(), mutated(inputs, random)) ? 1 : 0;
  }
  // Some changes do no harm, most do: if only one of these happens, nothing was tested.
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kMutations);
}

INSTANTIATE_TEST_SUITE_P(Readers, Fuzz, testing::ValuesIn(readers()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace rookery
