// The data of a training run: which tokenizer reads it, which part is learned and which is held out
// for validation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "data/loader.h"
#include "data/training_data.h"
#include "tokenizers/tokenizer.h"
#include "training/trainer.h"

namespace rookery {

struct DataOptions {
  std::vector<std::string> files;             // text files, or one name of prepared data
  std::vector<std::string> validation_files;  // none: a part of the data is held out
  std::string tokenizer;  // as of named_tokenizer(); empty: the data's or the model's
};

// The tokenizer of a new run: the one that the options name; else, for prepared data, the model's
// or the one that the data names; else, for text, the model's, or bytes without a model. Null if
// none is known. Throws Error if options, data and model do not agree.
std::unique_ptr<Tokenizer> choose_tokenizer(const DataOptions& options, const LoadedModel* model);

// The vocabulary of a fresh model: `asked`, or if that is 0 the tokenizer's. Throws Error if
// `asked` is smaller than the tokenizer, or neither is known.
int64_t choose_vocabulary(const DataOptions& options, int64_t asked, const Tokenizer* tokenizer);

// How many tokens were looked at, of how many; false ends the work.
using DataProgress = std::function<bool(int64_t done, int64_t total)>;

class RunData {
 public:
  // Opens prepared data, or makes tokens of text; `tokenizer` may be null for prepared data. Throws
  // Error for a tokenizer other than the one that prepared data names.
  RunData(const DataOptions& options, std::unique_ptr<Tokenizer> tokenizer, ThreadPool& pool);

  const TrainingData& training() const { return training_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // Throws Error naming the first id that is not below the model's vocabulary, or if `progress`
  // returned false. It may have to read all of the data.
  void check_ids(int64_t vocabulary, const DataProgress& progress = {}) const;

  // Over the part that is learned: all of it, if there is other data for validation or the part to
  // hold out would not fill a window. Throws Error if no window fits.
  Loader loader(const TrainOptions& options, int64_t vocabulary) const;

  // At most so many windows, evenly spread over what is held out; none if nothing is, or if nothing
  // in it should be learned.
  std::vector<TrainingBatch> validation(const TrainOptions& options, int64_t vocabulary,
                                        int64_t most) const;
  // Bytes of their targets by targets; 0 if the tokenizer is unknown.
  double bytes_per_target(std::span<const TrainingBatch> batches) const;

 private:
  // Tokens from the beginning that are learned.
  int64_t learned_tokens(const TrainOptions& options) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  TrainingData training_;
  std::optional<TrainingData> validation_;
};

}  // namespace rookery
