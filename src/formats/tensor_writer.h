// What the writers share: tensors go to the file one after another, so that no more than one of
// them is in memory besides what was there before.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "io/file.h"
#include "formats/tensor_source.h"

namespace rookery {

// Called after every few MiB with the bytes of tensors written since the call before. What it
// throws ends the writing, and nothing is left of it: so a write is stopped.
using WriteProgress = std::function<void(int64_t bytes)>;

// Appends in pieces.
void write_numbers(AtomicFile& file, const void* data, int64_t bytes,
                   const WriteProgress& progress);

// The tensor as plain numbers of another type (kF32, kF16, kBF16), rounded to nearest even when it
// is read; itself if it has that type. Reading throws Error, naming the tensor, if a finite number
// would become infinite. `tensor` and what it came from must outlive the result.
StoredTensor in_type(const StoredTensor& tensor, DType dtype);

// The tensor as blocks of kQ8_0, made of its numbers in float32; itself if it is that already. Only
// matrices of weights have blocks. A format does not know the roles of parameters, but their names
// end in ".weight", and those of low-rank matrices and of vectors with two sizes do not: nothing is
// returned for other names, for a tensor that has no two sizes above 1, or whose rows are no
// multiple of kBlock. `tensor` and what it came from must outlive the result.
std::optional<StoredTensor> in_blocks(const StoredTensor& tensor);

// Writes the blocks of a tensor whose block_type is set, row by row where they must be made. Throws
// Error, naming the tensor, for numbers that blocks cannot hold.
void write_blocks_of(AtomicFile& file, const StoredTensor& tensor, TensorReader& reader,
                     const WriteProgress& progress);

// Of all tensors, as they are stored.
int64_t bytes_of(std::span<const StoredTensor> tensors);

}  // namespace rookery
