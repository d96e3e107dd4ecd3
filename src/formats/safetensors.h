// The safetensors container: the length of a JSON header (u64), the header (name -> dtype, shape,
// data_offsets; optionally __metadata__), then the data.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "formats/tensor_source.h"
#include "formats/tensor_writer.h"

namespace rookery {

// Metadata of models whose norms differ from the usual: a number as text.
inline constexpr char kNormEpsilon[] = "layer_norm_epsilon";
inline constexpr char kGroupNormEpsilon[] = "group_norm_epsilon";
// Metadata that says which tensors of bytes (U8, the last size counting bytes) are blocks of
// quantised numbers, of which type and, in numbers, which shape: JSON such as
// {"emb.weight": {"type": "Q8_0", "shape": [4096, 320]}}.
inline constexpr char kBlocks[] = "blocks";

// Reads F32, F16 and BF16 tensors, mapped, and blocks, which become f32 when they are read; the
// metadata that describes these is taken out. Throws Error for another type, for offsets that leave
// the file, overlap or do not fit the shape, for more than four sizes that are not 1, for an
// epsilon that is none, and for a damaged header.
TensorSource read_safetensors(MappedFile file);

// Puts the epsilons that are not the usual ones into the metadata, and takes others out of it.
void write_epsilons(const NormEpsilons& epsilons, std::map<std::string, std::string>& metadata);

// Writes the tensors (kF32, kF16, kBF16, or blocks of kQ8_0) and the metadata to `path`, all or
// nothing. 32-bit tensors come first and blocks last, so that every tensor is aligned; the data
// starts at a multiple of 64 bytes. Throws Error if the file cannot be written, a name occurs twice
// or is "__metadata__", or a name or metadata is not UTF-8.
void write_safetensors(const std::filesystem::path& path, std::span<const StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const WriteProgress& progress = {});

}  // namespace rookery
