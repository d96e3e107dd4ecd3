// A build without CUDA: there is no GPU, and a request for one says why.

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace rookery::cuda {
namespace {

[[noreturn]] void absent() { fail("no GPU can be used: {}", unavailable()); }

}  // namespace

bool built() { return false; }
const std::string& unavailable() {
  static const std::string reason =
      "this program was built without CUDA; install the CUDA toolkit, build again, or use "
      "--device cpu";
  return reason;
}
void require() { absent(); }
const DeviceInfo& device_info() { absent(); }
int64_t free_memory() { return 0; }
void* allocate(int64_t) { absent(); }
void* allocate_pinned(int64_t) { absent(); }
void deallocate(void*) noexcept {}
void deallocate_pinned(void*) noexcept {}
CUstream_st* stream() { return nullptr; }
void synchronize() {}
bool is_device_memory(const void*) { return false; }
void copy(void*, const void*, int64_t) { absent(); }
void copy_in_order(void*, const void*, int64_t) { absent(); }
void zero_in_order(void*, int64_t) { absent(); }
void read_in_order(const void*, int64_t) { absent(); }

struct Graph::Parts {};
Graph::Graph() = default;
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
void Graph::begin() { absent(); }
void Graph::end() { absent(); }
void Graph::abandon() noexcept {}
bool Graph::recorded() const { return false; }
void Graph::launch() { absent(); }
void Graph::reset() {}

struct Timer::Parts {};
Timer::Timer() { absent(); }
Timer::~Timer() = default;
void Timer::start() {}
double Timer::stop() { return 0; }

}  // namespace rookery::cuda
