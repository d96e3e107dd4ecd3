// Every stop string runs its own automaton over the bytes; the longest partial match is held back.
#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace rookery {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    check(!text.empty()) ||
        fail("a stop string is empty: expected at least one byte; leave it out to stop nowhere");
    std::vector<size_t> fallback(text.size(), 0);
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = fallback[border - 1];
      if (text[i] == text[border]) ++border;
      fallback[i] = border;
    }
    stops_.push_back({std::move(text), std::move(fallback)});
  }
}

std::string StopMatcher::push(std::string_view bytes) {
  if (stopped_) return {};
  for (const char byte : bytes) {
    held_ += byte;
    size_t longest = 0;
    for (Stop& stop : stops_) {
      while (stop.matched > 0 && stop.text[stop.matched] != byte) {
        stop.matched = stop.fallback[stop.matched - 1];
      }
      if (stop.text[stop.matched] == byte) ++stop.matched;
      if (stop.matched == stop.text.size()) longest = std::max(longest, stop.text.size());
    }
    if (longest > 0) {
      stopped_ = true;
      held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
  }
  size_t tail = 0;
  for (const Stop& stop : stops_) tail = std::max(tail, stop.matched);
  std::string shown = held_.substr(0, held_.size() - tail);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::finish() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, {});
}

}  // namespace rookery
