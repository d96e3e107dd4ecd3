// Lines from the user: on a terminal with editing and a history (libedit, if it was there when the
// program was built), elsewhere as they are.
#pragma once

#include <signal.h>

#include <filesystem>
#include <functional>
#include <string>

namespace rookery::cli {

// SIGINT and SIGTERM wait while this lives, in this thread and those that it makes.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_;
};

class LineReader {
 public:
  // Reads standard input. Lines typed before are in the file `history`, and those typed now are
  // added to it; empty: none are kept.
  explicit LineReader(std::filesystem::path history);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Whether a person sits there: standard input and standard error are a terminal.
  bool terminal() const { return terminal_; }

  enum class Event { kLine, kEnd, kInterrupted };
  // Waits for a line, without its end; `prompt` is for a terminal. `interrupted` is asked when a
  // signal came: true ends the waiting. Throws Error when input cannot be read, and for lines of
  // more than 16 MiB.
  Event read(const std::string& prompt, const std::function<bool()>& interrupted,
             std::string& line);

 private:
  Event read_plain(const std::function<bool()>& interrupted, const sigset_t& unblocked,
                   std::string& line);

  std::filesystem::path history_;
  bool terminal_ = false;
  std::string buffer_;
  size_t searched_ = 0;  // bytes of the buffer that hold no end of a line
  bool ended_ = false;
};

// ~/.local/state/rookery/chat_history, or where XDG_STATE_HOME says; empty without a home.
std::filesystem::path default_history();

}  // namespace rookery::cli
