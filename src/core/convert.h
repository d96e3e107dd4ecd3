// Copying numbers from one type to another.
#pragma once

#include "core/tensor.h"

namespace rookery {

// Same count, any types but complex to real. Rounds to nearest even.
void convert(const TensorView& from, const TensorView& to);

}  // namespace rookery
