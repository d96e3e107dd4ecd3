#include "core/cpu_info.h"

#include <fstream>
#include <sstream>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rookery {
namespace {

CpuInfo read_cpu_info() {
  CpuInfo info;
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) info.amx_bf16 = (d >> 22) & 1u;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) info.bf16_products = (a >> 5) & 1u;
  info.bf16_products = info.bf16_products || info.amx_bf16;
#endif
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) info.name = line.substr(colon + 2);
      break;
    }
  }
  if (info.name.empty()) info.name = "unknown processor";
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = read_cpu_info();
  return info;
}

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream fields(line);
    std::string key;
    long long kib = 0;
    fields >> key >> kib;
    if (key == "VmRSS:") memory.resident = kib * 1024;
    if (key == "VmHWM:") memory.peak = kib * 1024;
  }
  return memory;
}

}  // namespace rookery
