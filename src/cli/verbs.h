// The verbs of the program, and what they share. Each verb is one file; main.cc lists them.
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "formats/tensor_source.h"
#include "models/load.h"
#include "tokenizers/tokenizer.h"

namespace rookery::cli {

// Adds its subcommand with its options; returns what runs it, which returns the exit code.
using Verb = std::function<int()> (*)(CLI::App& app);

std::function<int()> add_bench(CLI::App& app);
std::function<int()> add_chat(CLI::App& app);
std::function<int()> add_check(CLI::App& app);
std::function<int()> add_convert(CLI::App& app);
std::function<int()> add_data(CLI::App& app);
std::function<int()> add_eval(CLI::App& app);
std::function<int()> add_generate(CLI::App& app);
std::function<int()> add_info(CLI::App& app);
std::function<int()> add_init(CLI::App& app);
std::function<int()> add_logits(CLI::App& app);
std::function<int()> add_tokenizer_verb(CLI::App& app);
std::function<int()> add_train(CLI::App& app);

// A subcommand whose --help begins with an example.
CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples);

// --threads N (0: one for each core that this process may use).
std::shared_ptr<int> add_threads(CLI::App& verb);
int resolve_threads(int threads);

// A model file, or a folder that holds one: model.safetensors, or the newest
// checkpoint-*.safetensors of a training run, or the only file that could be one. A folder with a
// config.json is itself the model (formats/huggingface.h). Throws Error when there is none, or
// several.
std::filesystem::path find_model_file(const std::string& path);

struct LoadedModel {
  std::filesystem::path file;
  std::string format;  // "safetensors", ...
  std::map<std::string, std::string> metadata;
  std::unique_ptr<Model> model;
};
// Reads a checkpoint of any format; training state beside the weights is left out.
//
// On a GPU matrices are F32 or BF16: as stored means F32 for a float32 model and BF16 for the
// others.
LoadedModel load_model(const std::string& path, MatrixType type, Device device = Device::kCpu);
// The same without numbers: plan_from_tensors().
LoadedModel look_at_model(const std::string& path);

// --tokenizer: a vocabulary file, a folder that holds one, or "bytes". Empty if it was not given.
std::shared_ptr<std::string> add_tokenizer(CLI::App& verb);

// The tokenizer that such a flag names, without a model. Throws Error if there is none, it cannot
// be read, or a folder holds several.
std::unique_ptr<Tokenizer> tokenizer_from(const std::string& name);

// A model's tokenizer: the one that the flag names; else the one that the model file carries; else,
// with 256 ids, bytes; else one beside the model file whose size fits: MODEL.tokenizer.json,
// tokenizer.json, 20B_tokenizer.json or rwkv_vocab_DATE.txt. In a folder that the flag names, too,
// the one that fits is taken. Null if there is none. It has all the model's ids: those that are
// padding stand for no bytes. Throws Error if it has more ids than the model, or if what the flag
// names or the model carries cannot be read.
std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model, const std::string& flag);
// The same, but throws Error, with which is expected and where to get it, if there is none.
std::unique_ptr<Tokenizer> require_tokenizer(const LoadedModel& model, const std::string& flag);

// Ids from "5,3,100" or "5 3 100". Throws Error for anything else.
std::vector<int32_t> parse_ids(const std::string& text);

// Sizes from "4:12:768:50277": generation, layers, width, vocabulary. Throws Error for anything
// else.
ModelConfig parse_shape(const std::string& text);

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

// For ->check(): a whole number of at least `least`.
CLI::Validator at_least(int64_t least);

// --device: auto (a GPU when one can be used), cpu or cuda.
std::shared_ptr<std::string> add_device(CLI::App& verb);
// Throws Error when cuda is asked for and cannot be used.
Device resolve_device(const std::string& name);
// "RTX 5090 (CUDA)", or the processor's name.
std::string describe(Device device);

// --dtype: how a loaded model's matrices are kept.
std::shared_ptr<MatrixType> add_dtype(CLI::App& verb);

// Writes to standard output and flushes. False when nobody reads it any more (a closed pipe: the
// reader has seen enough, so the work ends quietly). Throws Error when it cannot be written (a full
// disk).
bool write_output(std::string_view text);

// Standard input to its end.
std::string read_standard_input();

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

// Bytes as valid UTF-8, for JSON.
std::string printable(std::string_view bytes);

// Has SIGINT and SIGTERM handled, by the main thread, which calls this.
void handle_signals(void (*handler)(int));

// Set by SIGINT and SIGTERM once catch_signals() was called; the second one ends the program at
// once.
void catch_signals();
bool stop_requested();

}  // namespace rookery::cli
