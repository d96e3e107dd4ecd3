// Stops at the same byte and shows the same text however the input is cut.
#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace rookery {
namespace {

struct Outcome {
  std::string shown;
  bool stopped;
  bool operator==(const Outcome&) const = default;
};

// By searching: the stop that ends first; of those, the one that begins first.
Outcome definition(const std::vector<std::string>& stops, const std::string& text) {
  size_t end = std::string::npos, begin = 0;
  for (const std::string& stop : stops) {
    const size_t found = text.find(stop);
    if (found == std::string::npos) continue;
    if (found + stop.size() < end || (found + stop.size() == end && found < begin)) {
      end = found + stop.size();
      begin = found;
    }
  }
  return end == std::string::npos ? Outcome{text, false} : Outcome{text.substr(0, begin), true};
}

void expect_definition_at_every_cut(const std::vector<std::string>& stops,
                                    const std::string& text) {
  const Outcome expected = definition(stops, text);
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      StopMatcher matcher(stops);
      std::string shown = matcher.push(std::string_view(text).substr(0, first));
      shown += matcher.push(std::string_view(text).substr(first, second - first));
      shown += matcher.push(std::string_view(text).substr(second));
      shown += matcher.finish();
      EXPECT_EQ((Outcome{shown, matcher.stopped()}), expected)
          << text << " cut at " << first << ", " << second;
    }
  }
}

TEST(StopMatcher, StopsAtEveryCut) {
  expect_definition_at_every_cut({"\n\nUser:"}, "Hello\n\n\nUser: no");
  expect_definition_at_every_cut({"\n\nUser:"}, "Hello\n\nUse");
  expect_definition_at_every_cut({"aab"}, "aaaabc");
  expect_definition_at_every_cut({"abab", "ba"}, "xababab");
  expect_definition_at_every_cut({"aabaaac"}, "aabaaabaaacx");
  expect_definition_at_every_cut({"b", "abc"}, "xabcd");
  expect_definition_at_every_cut({"cd", "abcd", "bcd"}, "xabcde");
  expect_definition_at_every_cut({"\u3002"}, "\u4e2d\u3001\u3002x");
  expect_definition_at_every_cut({}, "anything");
}

TEST(StopMatcher, RandomStopsInRandomText) {
  Random random(3);
  const auto letters = [&](size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += static_cast<char>('a' + random.below(2));
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops;
    for (uint64_t i = 0; i <= random.below(4); ++i) stops.push_back(letters(1 + random.below(6)));
    const std::string text = letters(random.below(20));
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(1 + random.below(4), text.size() - at);
      shown += matcher.push(std::string_view(text).substr(at, size));
      at += size;
    }
    shown += matcher.finish();
    EXPECT_EQ((Outcome{shown, matcher.stopped()}), definition(stops, text));
  }
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.push("one E"), "one ");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("E"), "EN");
  EXPECT_EQ(matcher.push("x\n"), "Ex");
  EXPECT_EQ(matcher.push("\nrest"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, RefusesAnEmptyStop) { EXPECT_THROW(StopMatcher({"a", ""}), Error); }

}  // namespace
}  // namespace rookery
