// A build without CUDA: there is no GPU, and a request for one says why.

#include "core/cuda/captured.h"
#include "core/cuda/device.h"
#include "core/error.h"

namespace rookery::cuda {
namespace {

[[noreturn]] void absent() { fail("no GPU can be used: {}", unavailable()); }

}  // namespace

bool built() { return false; }
const std::string& unavailable(int) {
  static const std::string reason =
      "this program was built without CUDA; install the CUDA toolkit, build again, or use "
      "--device cpu";
  return reason;
}
void require(int) { absent(); }

const Device& Device::get(int) { absent(); }
int64_t Device::free_memory() const { return 0; }
void Device::make_current() const {}
void* Device::allocate(int64_t) const { absent(); }
void* Device::allocate_pinned(int64_t) const { absent(); }
void Device::copy(void*, const void*, int64_t) const { absent(); }

void deallocate(void*) noexcept {}
void deallocate_pinned(void*) noexcept {}
bool is_device_memory(const void*) { return false; }
void copy(void*, const void*, int64_t) { absent(); }

Stream::Stream(const Device& device) : device_(device) { absent(); }
Stream::~Stream() = default;
void Stream::wait() const {}
void Stream::copy(void*, const void*, int64_t) const { absent(); }
void Stream::zero(void*, int64_t) const { absent(); }
void Stream::read(const void*, int64_t) const { absent(); }

struct Captured::Graph {};
Captured::Captured() = default;
Captured::~Captured() = default;
Captured::Captured(Captured&&) noexcept = default;
Captured& Captured::operator=(Captured&&) noexcept = default;
void Captured::reset() {}
void Captured::begin(const Stream&) { absent(); }
void Captured::end(const Stream&) { absent(); }
void Captured::abandon(const Stream&) noexcept {}
void Captured::launch(const Stream&) { absent(); }

struct Timer::Parts {};
Timer::Timer(const Stream& stream) : stream_(stream) { absent(); }
Timer::~Timer() = default;
void Timer::start() {}
double Timer::stop() { return 0; }

}  // namespace rookery::cuda
