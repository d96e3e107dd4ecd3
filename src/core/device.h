// Devices by their names.
#pragma once

#include <string>

#include "core/context.h"

namespace rookery {

// "cpu", "cuda", or "auto": a GPU when one can be used. Throws Error for other names, and for
// "cuda", with the reason, when no GPU can be used.
Device resolve_device(const std::string& name);

// For reports: the name of the processor or of the GPU.
std::string describe(Device device);

}  // namespace rookery
