// Regular expressions by which text is split into words, through PCRE2: UTF-8, Unicode classes,
// compiled to machine code where the processor allows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace rookery {

// Constant after construction.
class Regex {
 public:
  // `pattern` is an expression, or with `literal` a text to be found as it is. Throws Error, with
  // the place, if it cannot be compiled.
  explicit Regex(std::string_view pattern, bool literal = false);

  // The matches in one text, from left to right. Not for several threads.
  class Matches {
   public:
    // `text` is valid UTF-8. Both must outlive this.
    Matches(const Regex& regex, std::string_view text);

    struct Range {
      int64_t begin, end;
    };
    // The next one; it may be empty, and none begins before the end of the one before. Nothing
    // after the last. Throws Error if the search for one match takes more than a million steps
    // back: such expressions take exponential time on some texts.
    std::optional<Range> next();

   private:
    const Regex& regex_;
    std::string_view text_;
    int64_t at_ = 0;
    std::shared_ptr<void> match_;
  };

 private:
  std::shared_ptr<const void> code_;
};

}  // namespace rookery
