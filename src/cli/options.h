// The options that several commands share, how their values are checked, and what they stand for.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/load.h"
#include "core/error.h"
#include "models/model.h"
#include "tokenizers/tokenizer.h"

namespace rookery::cli {

// A subcommand whose --help begins with an example.
CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples);

// For a flag that does not fit the model or another flag: exit code 2.
template <class... Args>
[[noreturn]] void wrong_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw CLI::ValidationError(fmt::format(format, std::forward<Args>(args)...));
}

// For ->check(): what `parse` throws as Error is told as wrong usage, before any work.
template <class F>
CLI::Validator parsed_by(F parse) {
  return CLI::Validator(
      [parse](std::string& text) {
        try {
          parse(text);
        } catch (const Error& error) {
          return std::string(error.what());
        }
        return std::string();
      },
      "");
}

// The same for work after parsing: what it throws as Error is told as wrong usage.
template <class F>
auto or_wrong_usage(F work) {
  try {
    return work();
  } catch (const Error& error) {
    wrong_usage("{}", error.what());
  }
}

// For ->check(): a whole number of at least `least`.
CLI::Validator at_least(int64_t least);

// --threads N (0: one for each core that this process may use).
std::shared_ptr<int> add_threads(CLI::App& verb);
int resolve_threads(int threads);

// --device: auto (a GPU when one can be used), cpu or cuda; for resolve_device().
std::shared_ptr<std::string> add_device(CLI::App& verb);

// --dtype: how a loaded model's matrices are kept.
std::shared_ptr<MatrixType> add_dtype(CLI::App& verb);
// load_model() on the device that --device names. Wrong usage if it cannot have matrices of that
// type.
LoadedModel load_on(const std::string& device, const std::string& path, MatrixType type);

// --tokenizer: a vocabulary file, a folder that holds one, or "bytes". Empty if it was not given.
std::shared_ptr<std::string> add_tokenizer(CLI::App& verb);
// find_tokenizer(), but throws Error, which speaks of the flag, if there is none.
std::unique_ptr<Tokenizer> tokenizer_for(const LoadedModel& model, const std::string& flag);

// What a model reads before it speaks: -p, --prompt-file, --ids, or standard input.
struct Prompt {
  std::string text, file, ids;
  CLI::Option *text_option = nullptr, *file_option = nullptr, *ids_option = nullptr;
};
std::shared_ptr<Prompt> add_prompt(CLI::App& verb);
// Its ids, at least one: without any prompt that is token 0, the end of a document and so the start
// of the next. `tokenizer` may be null, then only ids serve.
std::vector<int32_t> prompt_ids(const Prompt& prompt, const Model& model,
                                const Tokenizer* tokenizer);

// Ids from "5,3,100" or "5 3 100". Throws Error for anything else.
std::vector<int32_t> parse_ids(const std::string& text);

// Sizes from "4:12:768:50277": generation, layers, width, vocabulary. Throws Error for anything
// else.
ModelConfig parse_shape(const std::string& text);

}  // namespace rookery::cli
