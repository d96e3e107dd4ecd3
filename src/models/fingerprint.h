// A short description of a model's weights, by which a saved state finds out whether it belongs to
// a model. The same weights have the same fingerprint in every number type and file format.
//
// It is a hash of the names and shapes, and eight values of every parameter at fixed places,
// rounded to bfloat16. The values are kept and not hashed: weights that went through float16 may
// differ by the last bit of a bfloat16, or by the smallest float16, and are still the same weights.
#pragma once

#include <string>
#include <string_view>

#include "models/model.h"

namespace rookery {

// Hexadecimal digits: 16 of the hash, and 4 for every value. It reads a few values of each
// parameter, so that it takes milliseconds for a model of any size.
std::string fingerprint(const Model& model);

struct FingerprintMatch {
  bool same_shapes = false;  // names and shapes; if they differ the values are not compared
  int64_t values = 0, differ = 0;
  bool same() const { return same_shapes && differ == 0; }
};

// Compares what fingerprint() gave. A text that fingerprint() cannot have made differs.
FingerprintMatch match_fingerprints(std::string_view saved, std::string_view here);

}  // namespace rookery
