// The checkpoints of torch.save since PyTorch 1.6: a ZIP archive of stored members, one of them a
// pickle that names the tensors, the others their bytes.
#pragma once

#include "formats/tensor_source.h"

namespace rookery {

// Reads the float, half and bfloat16 tensors of a state dictionary. The pickle is read as data by
// an interpreter that knows a dozen names and calls none: a file cannot run code. A dictionary
// inside "state_dict", "model" or "module" is unwrapped; the prefixes "module." and
// "_forward_module." are removed, and "model." where an RWKV name follows. Contiguous tensors stay
// mapped, others are put into order when they are read. Texts and numbers beside the tensors become
// metadata; other tensors and objects are passed over unless they are named like a weight. Throws
// Error for those, for files converted by the pip package, and for anything damaged.
TensorSource read_pth(MappedFile file);

}  // namespace rookery
