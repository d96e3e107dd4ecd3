// `rookery init`: a fresh checkpoint, to train from or to compare programs with.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoints/fresh_model.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "io/file.h"
#include "reporting/numbers.h"

namespace rookery::cli {
namespace {

struct InitVerbOptions {
  std::string generation = "4";
  int64_t layers = 0, width = 0, vocabulary = 256;
  std::string ranks;
  InitOptions init;
  DType dtype = DType::kF32;
  bool dense_random = false, force = false;
  std::string output;
};

ModelConfig config_of(const InitVerbOptions& options) {
  return or_wrong_usage([&] {
    const ModelConfig config =
        make_config(options.generation, options.layers, options.width, options.vocabulary);
    // Generations 6 and 7 have low-rank matrices; find_generation() names those that this version
    // runs.
    check(options.ranks.empty()) || fail(
                                        "--ranks sets the low-rank matrices of generations 6 and "
                                        "7, but RWKV-{} has none: leave it out",
                                        config.generation);
    return config;
  });
}

int init(const InitVerbOptions& options) {
  const ModelConfig config = config_of(options);
  require_new_file(options.output, options.force);
  ThreadPool pool(default_threads());
  InitOptions init = options.init;
  if (options.dense_random) init.scheme = "random";
  const Model model = write_fresh_model(options.output, config, init, options.dtype, pool);
  fmt::print(
      stderr,
      "wrote {}: RWKV-{}, {} layers, width {}, vocabulary {}, {} parameters, {} {}, seed {}\n",
      options.output, config.generation, config.layers, config.width, config.vocabulary,
      format_count(static_cast<double>(model.parameter_count())), init.scheme,
      name_of(options.dtype), init.seed);
  return 0;
}

}  // namespace

std::function<int()> add_init(CLI::App& app) {
  CLI::App* verb = add_verb(app, "init", "Write a fresh model",
                            "  rookery init --layers 3 --width 128 -o fresh.safetensors");
  auto options = std::make_shared<InitVerbOptions>();
  verb->add_option("--generation", options->generation, "Of RWKV")->capture_default_str();
  const auto size = [&](const char* flag, int64_t& value, const char* what) {
    return verb->add_option(flag, value, what)
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24).description(""));
  };
  size("--layers", options->layers, "Blocks")->required();
  size("--width", options->width, "Of the embedding")->required();
  size("--vocab", options->vocabulary, "Tokens; 256: bytes")->capture_default_str();
  verb->add_option("--ranks", options->ranks, "Low-rank sizes of generations 6 and 7");
  CLI::Option* scheme =
      verb->add_option("--scheme", options->init.scheme,
                       "released: of the training code; paper: its Appendix E; random: dense")
          ->check(CLI::IsMember(
                      std::vector<std::string>(std::begin(kInitSchemes), std::end(kInitSchemes)))
                      .description(""))
          ->type_name("NAME")
          ->capture_default_str();
  verb->add_flag("--dense-random", options->dense_random,
                 "The same as --scheme random: every number takes part, for comparing programs")
      ->excludes(scheme);
  verb->add_option("--seed", options->init.seed, "Of the random numbers")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  verb->add_option_function<std::string>(
          "--dtype", [options](const std::string& name) { options->dtype = parse_dtype(name); },
          "Of the matrices in the file: f32, f16 or bf16")
      ->check(parsed_by(parse_dtype))
      ->type_name("TYPE")
      ->default_str("f32");
  verb->add_option("-o,--output", options->output, "The file to write: NAME.safetensors")
      ->check(CLI::Validator(
          [](std::string& name) {
            return name.ends_with(".safetensors")
                       ? std::string()
                       : fmt::format("'{}' should end in .safetensors, the format that is written",
                                     name);
          },
          ""))
      ->required()
      ->type_name("FILE");
  verb->add_flag("--force", options->force, "Replace the file if it exists");
  return [options] { return init(*options); };
}

}  // namespace rookery::cli
