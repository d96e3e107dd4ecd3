#include "core/threads.h"

#include <csignal>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <string>

namespace rookery {
namespace {

// The worker that this thread is while it runs a task; -1 outside of tasks.
thread_local int current_worker = -1;

// How long to wait actively. Longer than the serial work between two operators of a decode step,
// shorter than anything a person or a scheduler notices.
constexpr auto kSpin = std::chrono::microseconds(50);

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` differs from `old`.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  for (int i = 0;; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_cpu();
    if (i % 64 == 63 && std::chrono::steady_clock::now() > deadline) break;
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  // Signals are for other threads: oneDNN's kernels use the stack pointer for numbers, and a
  // handler's frame would be written over what lies there.
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int ours : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
    sigdelset(&blocked, ours);
  }
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    wait_for_change(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    take_tasks(worker);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void ThreadPool::take_tasks(int worker) {
  current_worker = worker;
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= job_.tasks) break;
    try {
      (*job_.body)(task, worker);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  current_worker = -1;
}

void ThreadPool::run(int64_t tasks, FunctionRef<void(int64_t, int)> body) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty() || current_worker >= 0) {
    const int worker = std::max(current_worker, 0);
    for (int64_t task = 0; task < tasks; ++task) body(task, worker);
    return;
  }
  const std::lock_guard lock(run_mutex_);
  job_ = {&body, tasks};
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  take_tasks(0);
  for (int busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) wait_for_change(busy_, busy);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::for_ranges(int64_t count, int64_t grain,
                            FunctionRef<void(int64_t, int64_t, int)> body) {
  if (count <= 0) return;
  const int64_t ranges =
      std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, static_cast<int64_t>(threads()));
  run(ranges, [&](int64_t task, int worker) {
    body(count * task / ranges, count * (task + 1) / ranges, worker);
  });
}

int default_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return std::max(1u, std::thread::hardware_concurrency());
  }
  std::set<std::string> cores;  // hyper-threads of one core share its name
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    std::string package, core;
    std::ifstream(base + "physical_package_id") >> package;
    std::ifstream(base + "core_id") >> core;
    cores.insert(core.empty() ? std::to_string(cpu) : package + "/" + core);
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

}  // namespace rookery
