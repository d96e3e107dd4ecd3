// The verbs of the program, and what they share. Each verb is one file; main.cc lists them.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/threads.h"
#include "formats/tensor_source.h"
#include "models/model.h"
#include "tokenizers/tokenizer.h"

namespace rookery::cli {

// Adds its subcommand with its options; returns what runs it, which returns the exit code.
using Verb = std::function<int()> (*)(CLI::App& app);

std::function<int()> add_bench(CLI::App& app);
std::function<int()> add_check(CLI::App& app);
std::function<int()> add_generate(CLI::App& app);
std::function<int()> add_info(CLI::App& app);
std::function<int()> add_init(CLI::App& app);
std::function<int()> add_logits(CLI::App& app);
std::function<int()> add_train(CLI::App& app);

// A subcommand whose --help begins with an example.
CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& what,
                   const std::string& examples);

// --threads N (0: one for each core that this process may use).
std::shared_ptr<int> add_threads(CLI::App& verb);
int resolve_threads(int threads);

// A model file, or a folder that holds one: model.safetensors, or the newest checkpoint-*.safetensors of a
// training run. Throws Error when there is none.
std::filesystem::path find_model_file(const std::string& path);

struct LoadedModel {
  std::filesystem::path file;
  std::string format;                      // "safetensors", ...
  std::map<std::string, std::string> metadata;
  std::unique_ptr<Model> model;
};
// Reads a checkpoint of any format; training state beside the weights is left out.
LoadedModel load_model(const std::string& path, MatrixType type);

// The tokenizer that fits the vocabulary, or null if none is known.
std::unique_ptr<Tokenizer> find_tokenizer(const LoadedModel& model);

// Ids from "5,3,100" or "5 3 100". Throws Error for anything else.
std::vector<int32_t> parse_ids(const std::string& text);

// Standard input to its end.
std::string read_standard_input();

// Set by SIGINT and SIGTERM once catch_signals() was called; the second one ends the program at once.
void catch_signals();
bool stop_requested();

}  // namespace rookery::cli
