// The longest entry, beside trying them all.
#include "tokenizers/byte_trie.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>

#include "core/error.h"

namespace rookery {
namespace {

TEST(ByteTrie, FindsTheLongest) {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    const uint32_t letters = round % 2 == 0 ? 3 : 256;
    std::set<std::string> strings;
    while (strings.size() < 400) {
      std::string string(1 + random() % (letters == 3 ? 8 : 3), '\0');
      for (char& byte : string) byte = static_cast<char>(random() % letters);
      strings.insert(string);
    }
    std::vector<ByteTrie::Entry> entries;
    for (const std::string& string : strings) {
      entries.push_back({string, static_cast<int32_t>(entries.size())});
    }
    const std::vector<ByteTrie::Entry> sorted = entries;
    std::shuffle(entries.begin(), entries.end(), random);
    const ByteTrie trie(std::move(entries));
    for (int i = 0; i < 500; ++i) {
      std::string text(random() % 12, '\0');
      for (char& byte : text) byte = static_cast<char>(random() % letters);
      ByteTrie::Match expected;
      for (const ByteTrie::Entry& entry : sorted) {
        if (text.starts_with(entry.bytes) &&
            static_cast<int32_t>(entry.bytes.size()) > expected.length) {
          expected = {entry.id, static_cast<int32_t>(entry.bytes.size())};
        }
      }
      const ByteTrie::Match match = trie.longest(text.data(), text.data() + text.size());
      ASSERT_EQ(match.id, expected.id);
      ASSERT_EQ(match.length, expected.length);
    }
  }
}

TEST(ByteTrie, MayBeEmpty) {
  const std::string text = "abc";
  for (const ByteTrie& trie : {ByteTrie(), ByteTrie(std::vector<ByteTrie::Entry>())}) {
    EXPECT_EQ(trie.longest(text.data(), text.data() + 3).id, -1);
  }
}

TEST(ByteTrie, RefusesWhatItCannotHold) {
  const std::string long_one(ByteTrie::kLongestEntry + 1, 'x');
  EXPECT_THROW(ByteTrie({{"", 1}}), Error);
  EXPECT_THROW(ByteTrie({{long_one, 1}}), Error);
  EXPECT_THROW(ByteTrie({{"a", -1}}), Error);
  EXPECT_THROW(ByteTrie({{"a", static_cast<int32_t>(ByteTrie::kLargestId) + 1}}), Error);
  EXPECT_THROW(ByteTrie({{"a", 1}, {"b", 2}, {"a", 3}}), Error);
  const ByteTrie largest({{"a", static_cast<int32_t>(ByteTrie::kLargestId)}});
  const std::string text = "a";
  EXPECT_EQ(largest.longest(text.data(), text.data() + 1).id, ByteTrie::kLargestId);
}

}  // namespace
}  // namespace rookery
