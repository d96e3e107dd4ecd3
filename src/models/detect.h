// Which RWKV generation a set of tensors belongs to, by names and shapes alone.
#pragma once

#include <span>
#include <string>

#include "core/tensor.h"

namespace rookery {

struct TensorInfo {
  std::string name;
  Shape shape;
};

// "4", "5.0", "5.1", "5.2", "6" or "7", for names as the public training code writes them. (5.1 has
// one decay per head and a gate; other programs count the fives differently.) All tensors are
// looked at before anything is decided. Throws Error, naming what it found, for variants that
// Rookery does not run (6a, 6b/6c, 7a, 7b, the version 4 research models), for converted files,
// adapters and states, and for what is not RWKV.
std::string detect_generation(std::span<const TensorInfo> tensors);

}  // namespace rookery
