// The commands of the program. Each is one file; main.cc lists them.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

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

}  // namespace rookery::cli
