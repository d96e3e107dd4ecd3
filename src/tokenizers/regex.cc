#include "tokenizers/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <string>

#include "core/error.h"

namespace rookery {
namespace {

constexpr uint32_t kMostSteps = 1'000'000;
constexpr uint32_t kMostMemory = 65'536;  // KiB
constexpr int64_t kLongestPattern = 16'384;
constexpr uint32_t kDeepestPattern = 100;  // parentheses; the compiler recurses

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// What bounds a search; shared by all, constant.
pcre2_match_context* limits() {
  static pcre2_match_context* const context = [] {
    pcre2_match_context* made = pcre2_match_context_create(nullptr);
    check(made != nullptr) || fail("out of memory");
    pcre2_set_match_limit(made, kMostSteps);
    pcre2_set_depth_limit(made, kMostSteps);
    pcre2_set_heap_limit(made, kMostMemory);
    return made;
  }();
  return context;
}

}  // namespace

Regex::Regex(std::string_view pattern, bool literal) {
  check(static_cast<int64_t>(pattern.size()) <= kLongestPattern) ||
      fail("an expression has {} bytes: expected at most {}", pattern.size(), kLongestPattern);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  check(context != nullptr) || fail("out of memory");
  pcre2_set_parens_nest_limit(context.get(), kDeepestPattern);
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C),
                    &error, &place, context.get());
  check(code != nullptr) ||
      fail("the expression '{}' cannot be read at byte {}: {}", pattern, place, message_of(error));
  code_ = std::shared_ptr<const void>(code, [](const void* made) {
    pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(made)));
  });
  // Without machine code the same matches are found, only later.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

Regex::Matches::Matches(const Regex& regex, std::string_view text)
    : regex_(regex), text_(text), match_(pcre2_match_data_create(1, nullptr), [](void* made) {
        pcre2_match_data_free(static_cast<pcre2_match_data*>(made));
      }) {
  check(match_ != nullptr) || fail("out of memory");
}

std::optional<Regex::Matches::Range> Regex::Matches::next() {
  const int64_t size = static_cast<int64_t>(text_.size());
  if (at_ > size) return std::nullopt;
  const auto* code = static_cast<const pcre2_code*>(regex_.code_.get());
  auto* match = static_cast<pcre2_match_data*>(match_.get());
  const auto search = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                       static_cast<PCRE2_SIZE>(at_), PCRE2_NO_UTF_CHECK | options, match, limits());
  };
  int result = search(0);
  // The machine code's stack is small; the interpreter has more.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) {
    at_ = size + 1;
    return std::nullopt;
  }
  check(result >= 0) || fail(
                            "the tokenizer's expression for splitting gave up at byte {} of a text "
                            "({}): it needs too much time or memory there",
                            at_, message_of(result));
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(match);
  // \K in a lookahead may put the beginning behind the end, or before what was searched.
  const int64_t end = std::max(static_cast<int64_t>(place[1]), at_);
  const Range range{std::clamp(static_cast<int64_t>(place[0]), at_, end), end};
  at_ = end;
  if (range.begin == range.end) {  // go on behind the next character
    do ++at_;
    while (at_ < size && (static_cast<uint8_t>(text_[at_]) & 0xC0) == 0x80);
  }
  return range;
}

}  // namespace rookery
