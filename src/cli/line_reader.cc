#include "cli/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <memory>
#include <system_error>

#ifdef ROOKERY_LIBEDIT
#include <editline/readline.h>
#endif

#include "core/error.h"
#include "io/file.h"

namespace rookery::cli {
namespace {

constexpr size_t kLongestLine = size_t{16} << 20;

#ifdef ROOKERY_LIBEDIT
constexpr int kMostHistory = 1000;  // lines

// libedit takes a function without arguments of our own, so what it needs stands here.
struct {
  const std::function<bool()>* interrupted = nullptr;
  const sigset_t* unblocked = nullptr;
} waiting;

// The next character of standard input; -1 at its end and after an interrupt. libedit's own
// function would not notice a signal that comes just before it waits.
int next_character(std::FILE*) {
  std::mbstate_t state{};
  while (true) {
    if ((*waiting.interrupted)()) return -1;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::ppoll(&input, 1, nullptr, waiting.unblocked) < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    char byte = 0;
    const ssize_t got = ::read(STDIN_FILENO, &byte, 1);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return -1;
    constexpr auto kInvalid = static_cast<size_t>(-1), kIncomplete = static_cast<size_t>(-2);
    wchar_t wide = 0;
    size_t length = std::mbrtowc(&wide, &byte, 1, &state);
    if (length == kInvalid) {  // it may begin a character where another broke off
      state = {};
      length = std::mbrtowc(&wide, &byte, 1, &state);
    }
    if (length == kInvalid) state = {};
    if (length != kInvalid && length != kIncomplete) return static_cast<int>(wide);
  }
}

void begin_editing(const std::filesystem::path& history) {
  // libedit reads characters by the locale; a locale of one byte per character would break UTF-8.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
  }
  rl_readline_name = "rookery";
  rl_outstream = stderr;
  rl_catch_signals = 0;  // the caller's handlers serve
  rl_getc_function = next_character;
  rl_initialize();
  using_history();
  stifle_history(kMostHistory);
  if (!history.empty()) read_history(history.c_str());
}

// Nobody's chat should fail for its history: what cannot be written is not kept.
void end_editing(const std::filesystem::path& history) {
  if (history.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(history.parent_path(), error);
  // What was said is nobody else's business.
  const int file = ::open(history.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return;
  ::close(file);
  write_history(history.c_str());
}
#endif

}  // namespace

SignalsBlocked::SignalsBlocked() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, &before_);
}
SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

std::filesystem::path default_history() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (state != nullptr && *state == '/') {
    folder = state;
  } else if (home != nullptr && *home == '/') {
    folder = std::filesystem::path(home) / ".local" / "state";
  } else {
    return {};
  }
  return folder / "rookery" / "chat_history";
}

LineReader::LineReader(std::filesystem::path history)
    : history_(std::move(history)),
      terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDERR_FILENO) != 0) {
  std::error_code error;
  if (std::filesystem::is_regular_file(history_, error) &&
      std::filesystem::file_size(history_, error) > 0) {
    check(read_text_file(history_).starts_with("_HiStOrY_V2_")) ||
        fail("'{}' exists and is no history of lines: choose another name", history_.string());
  }
#ifdef ROOKERY_LIBEDIT
  if (terminal_) begin_editing(history_);
#endif
}

LineReader::~LineReader() {
#ifdef ROOKERY_LIBEDIT
  if (terminal_) end_editing(history_);
#endif
}

LineReader::Event LineReader::read(const std::string& prompt,
                                   const std::function<bool()>& interrupted, std::string& line) {
  // The signals can come only while ppoll waits, so that none is lost between the question and the
  // waiting.
  const SignalsBlocked blocked;
#ifdef ROOKERY_LIBEDIT
  if (terminal_) {
    waiting = {&interrupted, &blocked.before()};
    const std::unique_ptr<char, decltype(&std::free)> typed(readline(prompt.c_str()), &std::free);
    if (typed == nullptr) return interrupted() ? Event::kInterrupted : Event::kEnd;
    line = typed.get();
    if (!line.empty()) add_history(line.c_str());
    return Event::kLine;
  }
#endif
  if (terminal_) {
    std::fputs(prompt.c_str(), stderr);
    std::fflush(stderr);
  }
  return read_plain(interrupted, blocked.before(), line);
}

LineReader::Event LineReader::read_plain(const std::function<bool()>& interrupted,
                                         const sigset_t& unblocked, std::string& line) {
  while (true) {
    const size_t end = buffer_.find('\n', searched_);
    if (end != std::string::npos || (ended_ && !buffer_.empty())) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end == std::string::npos ? end : end + 1);
      searched_ = 0;
      return Event::kLine;
    }
    if (ended_) return Event::kEnd;
    searched_ = buffer_.size();
    check(buffer_.size() <= kLongestLine) ||
        fail("a line of standard input has more than {} bytes: expected a question on each line",
             kLongestLine);
    if (interrupted()) return Event::kInterrupted;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::ppoll(&input, 1, nullptr, &unblocked) < 0) {
      check(errno == EINTR) || fail("cannot wait for standard input ({})", std::strerror(errno));
      continue;
    }
    char bytes[4096];
    const ssize_t got = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    check(got >= 0) || fail("cannot read standard input ({})", std::strerror(errno));
    ended_ = got == 0;
    buffer_.append(bytes, static_cast<size_t>(got));
  }
}

}  // namespace rookery::cli
