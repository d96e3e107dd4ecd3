#include "core/device.h"

#include "core/cpu_info.h"
#include "core/cuda/device.h"
#include "core/error.h"

namespace rookery {

Device resolve_device(const std::string& name) {
  check(name == "auto" || name == "cpu" || name == "cuda") ||
      fail("invalid device '{}': expected auto, cpu or cuda", name);
  if (name == "cuda") cuda::require();
  const bool gpu = name == "cuda" || (name == "auto" && cuda::unavailable().empty());
  return gpu ? Device::kCuda : Device::kCpu;
}

std::string describe(Device device) {
  return device == Device::kCuda ? cuda::Device::get(device.gpu).info().name : cpu_info().name;
}

}  // namespace rookery
