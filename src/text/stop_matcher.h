// Ends generated text at a stop string, wherever the pieces in which it arrives are cut.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rookery {

// Works on bytes. What it returns, put together, is the text before the stop, and does not depend
// on how the input was cut. The stop that is complete first wins; if several end at the same byte,
// the longest of them, so that no part of a stop is ever shown. Each byte costs about one step
// per stop string, however long that is.
class StopMatcher {
 public:
  // Throws Error if a stop string is empty. No stop strings: everything passes.
  explicit StopMatcher(std::vector<std::string> stops);

  // Takes more bytes; returns what can be shown now: everything but a tail that may be the
  // beginning of a stop. After a stop it returns nothing and ignores its input.
  std::string push(std::string_view bytes);

  bool stopped() const { return stopped_; }

  // Generation has ended by itself: returns the held-back tail, if no stop was found.
  std::string finish();

 private:
  // Knuth, Morris and Pratt's automaton.
  struct Stop {
    std::string text;
    std::vector<size_t> fallback;  // [i]: length of the longest proper border of text[0 .. i]
    size_t matched = 0;            // how many bytes of `text` the input ends with
  };

  std::vector<Stop> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace rookery
