// The checkpoints of the rwkv.cpp project ("ggmf", .bin): a header, then tensors one after another
// until the end of the file, some of them transformed or quantised in blocks of 32.
#pragma once

#include "formats/tensor_source.h"

namespace rookery {

// Reads versions 100 and 101 with tensors of type F32, F16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0; the
// last five become f32 when they are read. Names, shapes and values come back as the training code
// stores them: sizes are [out, in]; decays are the trained numbers again, not their exponentials,
// as is the bonus of generations 5.0 and 5.1; low-rank matrices are transposed back; att.x_rwkvag
// is six vectors. A decay that the converter rounded to exactly 0 or 1 comes back as a finite
// number which gives that decay again. epsilons.group_norm is 1e-5 for generation 5. Throws Error
// for other versions and types, and for a file that is damaged or does not hold all its layers.
TensorSource read_ggmf(MappedFile file);

}  // namespace rookery
