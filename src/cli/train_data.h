// The data of `rookery train`: which tokenizer reads it, which part is learned and which held out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "data/loader.h"
#include "data/training_data.h"
#include "training/checkpoint.h"
#include "training/trainer.h"

namespace rookery::cli {

// --data, --validation-data, --tokenizer and --vocab, as they were given.
struct DataFlags {
  std::vector<std::string> files, validation_files;
  std::string tokenizer;
  int64_t vocabulary = 0;  // 0: not given
};

// A fresh run's tokenizer. The flag's; else the one that prepared data names; else, for text, the
// model's, or bytes for a fresh one. Null if none is known. Throws Error if the flag, the data and
// the model do not agree.
std::unique_ptr<Tokenizer> choose_tokenizer(const DataFlags& flags, const LoadedModel* model);

// The tokenizer that --tokenizer names: "bytes", or a file.
std::unique_ptr<Tokenizer> tokenizer_of_flag(const std::string& flag);

// The vocabulary of a fresh model: --vocab, else the tokenizer's. Throws Error if the flag is
// smaller than the tokenizer, or neither is known.
int64_t choose_vocabulary(const DataFlags& flags, const Tokenizer* tokenizer);

class RunData {
 public:
  // Opens the data, or makes tokens of text; `tokenizer` may be null for prepared data. Throws
  // Error for a tokenizer other than the one that prepared data names.
  RunData(const std::vector<std::string>& files, const std::vector<std::string>& validation_files,
          std::unique_ptr<Tokenizer> tokenizer, ThreadPool& pool);

  const TrainingData& training() const { return training_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // Throws Error naming the first id that is not below the model's vocabulary. Shows progress, for
  // it may have to read all of the data.
  void check_ids(int64_t vocabulary) const;

  // Over the part that is learned from: all of it, if there is other data for validation or the
  // part to hold out would not fill a window. Throws Error if no window fits.
  Loader loader(const TrainOptions& options, int64_t vocabulary) const;

  // At most so many windows, evenly spread over what is held out; none if nothing is, or if nothing
  // in it should be learned.
  std::vector<TrainingBatch> validation(const TrainOptions& options, int64_t vocabulary,
                                        int64_t most) const;
  // Bytes of their targets by targets; 0 if the tokenizer is unknown.
  double bytes_per_target(const std::vector<TrainingBatch>& batches) const;

 private:
  int64_t kept(const TrainOptions& options) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  TrainingData training_;
  std::optional<TrainingData> validation_;
};

}  // namespace rookery::cli
