// What the writers share: tensors go to the file one after another, so that no more than one of
// them is in memory besides what was there before.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/file.h"
#include "formats/tensor_source.h"

namespace rookery {

// Called after every few MiB with the bytes of tensors written since the call before. What it
// throws ends the writing, and nothing is left of it: so a write is stopped.
using WriteProgress = std::function<void(int64_t bytes)>;

// Appends in pieces.
void write_numbers(AtomicFile& file, const void* data, int64_t bytes,
                   const WriteProgress& progress);

// The tensor in another type (kF32, kF16, kBF16), rounded to nearest even when it is read; itself
// if it has that type. Reading throws Error, naming the tensor, if a finite number would become
// infinite. `tensor` and what it came from must outlive the result.
StoredTensor in_type(const StoredTensor& tensor, DType dtype);

// Of all tensors.
int64_t bytes_of(std::span<const StoredTensor> tensors);

}  // namespace rookery
