// One pool of threads. Between the steps of a computation a worker waits a few microseconds
// actively (a token needs a hundred hand-overs, and a sleeping thread costs 10-50 us to wake);
// after that it sleeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace rookery {

// A reference to a callable that outlives the call: no allocation, unlike std::function.
template <class Signature>
class FunctionRef;
template <class... Args>
class FunctionRef<void(Args...)> {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
      FunctionRef(F&& f)  // NOLINT: implicit by design
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* o, Args... args) {
          (*static_cast<std::remove_reference_t<F>*>(o))(std::forward<Args>(args)...);
        }) {}
  void operator()(Args... args) const { call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  void (*call_)(void*, Args...);
};

class ThreadPool {
 public:
  // `threads` counts the caller, which works too. At least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, worker) for every task in [0, tasks), in any order, worker in [0, threads());
  // returns when all are done. The first exception of a task is thrown here. A call from inside a
  // task runs inline.
  void run(int64_t tasks, FunctionRef<void(int64_t task, int worker)> body);

  // Calls body(begin, end, worker) on ranges that cover [0, count), each at least `grain` long but
  // for the last: one range per thread, so that the split depends on the sizes only.
  void for_ranges(int64_t count, int64_t grain,
                  FunctionRef<void(int64_t begin, int64_t end, int worker)> body);

 private:
  struct Job {
    FunctionRef<void(int64_t, int)>* body;
    int64_t tasks;
  };
  void work(int worker);
  void take_tasks(int worker);

  std::vector<std::thread> workers_;
  std::mutex run_mutex_;  // one job at a time
  Job job_{};
  alignas(64) std::atomic<uint32_t> epoch_{0};  // counts jobs; workers wait for it to move
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// Physical cores that this process may use; what --threads 0 means.
int default_threads();

}  // namespace rookery
