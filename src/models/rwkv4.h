// RWKV-4 (arXiv 2305.13048), the paper's architecture.
#pragma once

#include "models/generation.h"

namespace rookery {

extern const Generation kRwkv4;

}  // namespace rookery
