// What normalisations add to the variance. A property of a checkpoint: programs differ.
#pragma once

namespace rookery {

struct NormEpsilons {
  float layer_norm = 1e-5f;
  float group_norm = 64e-5f;  // of each head after the recurrence, from generation 5 on

  bool operator==(const NormEpsilons&) const = default;
};

}  // namespace rookery
