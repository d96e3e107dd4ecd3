// `rookery convert`: the same model in another file format or number type.

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <fmt/ranges.h>

#include "checkpoints/convert.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "core/timing.h"
#include "reporting/numbers.h"
#include "reporting/progress.h"

namespace rookery::cli {
namespace {

struct ConvertFlags {
  std::string input, output, to, shard_size = "5GB";
  ConversionOptions conversion;
  bool json = false;
};

int convert(ConvertFlags& flags) {
  ConversionOptions& options = flags.conversion;
  or_wrong_usage([&] {
    options.format = flags.to.empty() ? format_of_file(flags.output) : parse_model_format(flags.to);
    validate(options);
  });
  options.shard_bytes = parse_bytes(flags.shard_size);
  catch_signals();
  const Stopwatch watch;
  constexpr int64_t kMebibyte = int64_t{1} << 20;
  const auto mebibytes = [](int64_t bytes) { return (bytes + kMebibyte - 1) / kMebibyte; };
  std::optional<Progress> progress;
  options.on_progress = [&](int64_t done, int64_t total) {
    check(!stop_requested()) || fail("interrupted: nothing was written");
    if (!progress) {
      progress.emplace(stderr, ProgressOptions{.title = "convert", .total = mebibytes(total)});
    }
    progress->update(mebibytes(done), "MiB");
  };
  const Conversion result = convert_model(flags.input, flags.output, options);
  const double seconds = watch.seconds();
  if (progress) progress->finish();
  if (result.optimizer_tensors > 0) {
    fmt::print(stderr, "left out {} tensors of the optimizer\n", result.optimizer_tensors);
  }
  if (!result.tokenizer.empty()) {
    fmt::print(stderr, "the tokenizer lies beside it: {}\n", result.tokenizer.string());
  }
  if (!result.lost_metadata.empty()) {
    fmt::print(stderr, "a .pth has no place for metadata: {}\n",
               fmt::join(result.lost_metadata, ", "));
  }
  if (flags.json) {
    const nlohmann::ordered_json summary = {
        {"input", flags.input},
        {"input_format", result.input_format},
        {"output", flags.output},
        {"format", name_of(options.format)},
        {"generation", result.generation},
        {"dtype", result.dtype},
        {"tensors", result.tensors},
        {"parameters", result.parameters},
        {"bytes", result.bytes},
        {"optimizer_tensors_left_out", result.optimizer_tensors},
        {"seconds", seconds}};
    write_output(summary.dump(2) + "\n");
  } else {
    fmt::print(stderr, "wrote {}: RWKV-{} as {}, {} tensors, {} parameters, {} {}\n", flags.output,
               result.generation, name_of(options.format), result.tensors,
               format_count(static_cast<double>(result.parameters)), result.dtype,
               format_bytes(static_cast<double>(result.bytes)));
  }
  return 0;
}

}  // namespace

std::function<int()> add_convert(CLI::App& app) {
  CLI::App* verb = add_verb(app, "convert", "Write a model in another format or number type",
                            "  rookery convert RWKV-4-169M.pth rwkv-169m.safetensors\n"
                            "  rookery convert runs/book book-hf/ --dtype bf16\n"
                            "  rookery convert runs/book book.safetensors --dtype q8_0");
  auto flags = std::make_shared<ConvertFlags>();
  ConversionOptions& conversion = flags->conversion;
  verb->add_option("IN", flags->input,
                   "A .pth, .safetensors or rwkv.cpp .bin file, a Hugging Face folder, or the "
                   "folder of a training run")
      ->required()
      ->type_name("PATH");
  verb->add_option("OUT", flags->output,
                   "NAME.safetensors, NAME.pth, or a new folder for Hugging Face")
      ->required()
      ->type_name("PATH");
  verb->add_option("--to", flags->to, "The format, whatever OUT is called: safetensors, pth or hf")
      ->check(parsed_by(parse_model_format))
      ->type_name("FORMAT");
  verb->add_option_function<std::string>(
          "--dtype",
          [flags](const std::string& name) {
            flags->conversion.blocks = name == "q8_0";
            if (name != "as-stored" && name != "q8_0") flags->conversion.dtype = parse_dtype(name);
          },
          "Of all numbers: as-stored, f32, f16 or bf16; or q8_0: matrices in blocks of 8-bit "
          "numbers, the rest as stored (safetensors only)")
      ->check(CLI::IsMember({"as-stored", "f32", "f16", "bf16", "q8_0"}).description(""))
      ->type_name("TYPE")
      ->default_str("as-stored");
  verb->add_option("--shard-size", flags->shard_size,
                   "Hugging Face: weights above this are split over several files")
      ->check(parsed_by(parse_bytes))
      ->type_name("SIZE")
      ->capture_default_str();
  verb->add_flag("--force", conversion.replace,
                 "Replace the file if it exists (a folder that is not empty never is)");
  verb->add_flag("--json", flags->json, "Tell what was written as JSON");
  return [flags] { return convert(*flags); };
}

}  // namespace rookery::cli
