// Copying numbers from one type to another.
#pragma once

#include "core/tensor.h"
#include "core/threads.h"

namespace rookery {

// Same count, any types but complex to real. The numbers are those of core/dtype.h on every
// processor, to the bit: rounded to nearest even, too large becomes infinity, NaN stays NaN. With a
// pool all its threads work, else the calling one.
void convert(const TensorView& from, const TensorView& to, ThreadPool* pool = nullptr);

}  // namespace rookery
