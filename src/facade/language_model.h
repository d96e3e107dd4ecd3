// What the classes of rookery/rookery.hpp hold.
#pragma once

#include <memory>
#include <string>

#include "checkpoints/load.h"
#include "core/threads.h"
#include "generation/sampling.h"
#include "rookery/rookery.hpp"
#include "tokenizers/tokenizer.h"

namespace rookery {

struct LanguageModel::Parts {
  Parts(const std::string& path, const LoadOptions& options);

  Device device;
  bool deterministic;
  LoadedModel loaded;
  std::string missing;                   // which tokenizer is expected, if there is none
  std::unique_ptr<Tokenizer> tokenizer;  // null: none is known
  mutable ThreadPool pool;

  const Model& model() const { return *loaded.model; }
  // Throws Error if there is none.
  const Tokenizer& require_tokenizer() const;
};

// The number of threads that a user asked for; 0: the default. Throws Error below 0.
int threads_of(int threads);

// Throws Error for names that the sampler does not know.
SamplingChoices choices_of(const Sampling& sampling);

}  // namespace rookery
