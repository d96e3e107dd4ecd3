#include "training/run_data.h"

#include <algorithm>

#include "checkpoints/tokenizers.h"
#include "tokenizers/bytes.h"
#include "tokenizers/load.h"

namespace rookery {
namespace {

std::vector<std::filesystem::path> paths_of(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

// What prepared data says of itself; nothing for text and for files of other programs.
std::optional<PreparedAbout> about_data(const std::vector<std::string>& files) {
  const std::vector<std::filesystem::path> paths = paths_of(files);
  if (paths.empty() || !is_prepared(paths)) return {};
  return PreparedData(*prepared_name(paths.front())).about;
}

void check_same(const Tokenizer& tokenizer, const PreparedAbout& about, const std::string& file) {
  check(tokenizer.definition() == about.tokenizer) ||
      fail(
          "'{}' was prepared with the tokenizer '{}', expected the '{}' of this run: prepare it "
          "again with that one",
          file, about.tokenizer_name, tokenizer.name());
}

}  // namespace

std::unique_ptr<Tokenizer> choose_tokenizer(const DataOptions& options, const LoadedModel* model) {
  const std::vector<std::filesystem::path> paths = paths_of(options.files);
  const bool prepared = !paths.empty() && is_prepared(paths);
  const std::optional<PreparedAbout> about = about_data(options.files);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer = model != nullptr ? require_tokenizer(*model, options.tokenizer)
                                 : named_tokenizer(options.tokenizer);
    if (about) check_same(*tokenizer, *about, options.files.front());
    return tokenizer;
  }
  if (model != nullptr) {
    tokenizer = prepared ? find_tokenizer(*model, "") : require_tokenizer(*model, "");
    if (tokenizer != nullptr && about) {
      check(tokenizer->definition() == about->tokenizer) ||
          fail(
              "'{}' was prepared with the tokenizer '{}', but the model's is '{}': prepare it with "
              "the model's, or say with --tokenizer that the data's is right",
              options.files.front(), about->tokenizer_name, tokenizer->name());
    }
    if (tokenizer != nullptr) return tokenizer;
  }
  if (about) return parse_tokenizer(about->tokenizer, options.files.front());
  if (prepared) return nullptr;
  return std::make_unique<ByteTokenizer>();
}

int64_t choose_vocabulary(const DataOptions& options, int64_t asked, const Tokenizer* tokenizer) {
  check(tokenizer != nullptr || asked > 0) ||
      fail(
          "'{}' does not say which tokenizer made it: give its file with --tokenizer, or the "
          "number of its tokens with --vocab",
          options.files.empty() ? "" : options.files.front());
  if (asked == 0) return tokenizer->vocab_size();
  check(tokenizer == nullptr || asked >= tokenizer->vocab_size()) ||
      fail("--vocab {} is less than the {} tokens of the tokenizer '{}'", asked,
           tokenizer == nullptr ? 0 : tokenizer->vocab_size(),
           tokenizer == nullptr ? "" : tokenizer->name());
  return asked;
}

RunData::RunData(const DataOptions& options, std::unique_ptr<Tokenizer> tokenizer, ThreadPool& pool)
    : tokenizer_(std::move(tokenizer)) {
  const auto open = [&](const std::vector<std::string>& names) {
    const std::vector<std::filesystem::path> paths = paths_of(names);
    check(tokenizer_ != nullptr || is_prepared(paths)) ||
        fail("no tokenizer for the text '{}': give its file with --tokenizer", names.front());
    TrainingData data = open_training_data(paths, tokenizer_.get(), pool);
    if (tokenizer_ != nullptr && data.prepared && data.prepared->about) {
      check_same(*tokenizer_, *data.prepared->about, names.front());
    }
    return data;
  };
  training_ = open(options.files);
  if (!options.validation_files.empty()) validation_ = open(options.validation_files);
}

void RunData::check_ids(int64_t vocabulary, const DataProgress& progress) const {
  for (const TrainingData* data : {&training_, validation_ ? &*validation_ : nullptr}) {
    if (data == nullptr) continue;
    // The tokenizer made them just now, or when they were prepared. Should that not be true any
    // more, the loader refuses the token when it comes to it.
    if (data->text && tokenizer_->vocab_size() <= vocabulary) continue;
    if (data->prepared && data->prepared->about && data->prepared->about->largest_id < vocabulary) {
      continue;
    }
    bool stopped = false;
    const int64_t at = first_outside(data->tokens, vocabulary, [&](int64_t done) {
      stopped = progress && !progress(done, data->tokens.size());
      return !stopped;
    });
    check(!stopped) ||
        fail("interrupted while the ids of the data were checked: nothing was trained");
    check(at < 0) ||
        fail(
            "token {} of the data is {}: the model has tokens 0 to {}; is the data made with its "
            "tokenizer? A fresh model's vocabulary can be given with --vocab",
            at, at < 0 ? 0 : data->tokens[at], vocabulary - 1);
  }
}

int64_t RunData::learned_tokens(const TrainOptions& options) const {
  const int64_t count = training_.tokens.size();
  if (validation_) return count;
  const auto held_out =
      static_cast<int64_t>(options.validation_fraction * static_cast<double>(count));
  // Held out only if a window fits: a text too small to validate is still a text to learn from.
  return held_out > options.context ? count - held_out : count;
}

Loader RunData::loader(const TrainOptions& options, int64_t vocabulary) const {
  const int64_t count = learned_tokens(options);
  return Loader(training_.tokens.subspan(0, count),
                {.context = options.context,
                 .seed = options.seed,
                 .reset_documents = options.reset_documents,
                 .order = options.order,
                 .magic_prime = options.magic_prime,
                 .vocabulary = vocabulary},
                training_.mask.first(training_.mask.empty() ? 0 : static_cast<size_t>(count)));
}

std::vector<TrainingBatch> RunData::validation(const TrainOptions& options, int64_t vocabulary,
                                               int64_t most) const {
  const TrainingData& data = validation_ ? *validation_ : training_;
  const int64_t first = validation_ ? 0 : learned_tokens(options),
                count = data.tokens.size() - first;
  std::vector<TrainingBatch> batches;
  if (count == 0) return batches;
  const Loader loader(
      data.tokens.subspan(first, count),
      {.context = options.context,
       .seed = options.seed,
       .reset_documents = options.reset_documents,
       .vocabulary = vocabulary},
      data.mask.empty() ? data.mask : data.mask.subspan(static_cast<size_t>(first)));
  const int64_t fit = (count - 1) / options.context, windows = std::min(fit, most);
  bool learned = false;
  for (int64_t i = 0; i < windows; ++i) {
    if (i % options.batch == 0) batches.emplace_back();
    // The quotient first: the product of a large fit and i could overflow.
    const int64_t window = fit / windows * i + fit % windows * i / windows;
    loader.append_at(window * options.context, batches.back());
  }
  for (const TrainingBatch& batch : batches) {
    learned = learned || std::any_of(batch.targets.begin(), batch.targets.end(),
                                     [](int32_t target) { return target >= 0; });
  }
  if (!learned) batches.clear();
  return batches;
}

double RunData::bytes_per_target(std::span<const TrainingBatch> batches) const {
  if (tokenizer_ == nullptr) return 0;
  double bytes = 0, targets = 0;
  for (const TrainingBatch& batch : batches) {
    for (const int32_t target : batch.targets) {
      if (target < 0) continue;
      // The end of a document counts as one.
      const bool known = target > 0 && target < tokenizer_->vocab_size();
      bytes += known ? static_cast<double>(tokenizer_->bytes_of(target).size()) : 1;
      targets += 1;
    }
  }
  return targets > 0 ? bytes / targets : 0;
}

}  // namespace rookery
