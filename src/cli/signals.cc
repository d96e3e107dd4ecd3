#include "cli/signals.h"

#include <atomic>
#include <csignal>
#include <cstddef>

namespace rookery::cli {
namespace {

std::atomic<int> signals_seen{0};

extern "C" void on_signal(int signal) {
  if (signals_seen.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

void handle_signals(void (*handler)(int)) {
  // Beside the thread's own stack: oneDNN's kernels keep numbers where the stack pointer points.
  constexpr size_t kBytes = size_t{256} << 10;
  static std::byte stack[kBytes];
  stack_t there = {};
  sigaltstack(nullptr, &there);
  if ((there.ss_flags & SS_DISABLE) != 0) {
    const stack_t ours = {.ss_sp = stack, .ss_flags = 0, .ss_size = kBytes};
    sigaltstack(&ours, nullptr);
  }
  struct sigaction action = {};
  action.sa_handler = handler;
  // A half-written line goes on being written.
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void catch_signals() { handle_signals(on_signal); }

bool stop_requested() { return signals_seen.load() > 0; }

}  // namespace rookery::cli
