// What this processor can do, for choosing kernels and for reports.
#pragma once

#include <string>

namespace rookery {

struct CpuInfo {
  std::string name;            // "AMD EPYC ..."
  bool bf16_products = false;  // AVX512-BF16 or AMX-BF16
  bool amx_bf16 = false;
};

const CpuInfo& cpu_info();

// Bytes this process holds now, and the most it ever held (VmRSS and VmHWM).
struct ProcessMemory {
  long long resident = 0, peak = 0;
};
ProcessMemory process_memory();

}  // namespace rookery
