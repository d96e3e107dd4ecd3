// `rookery convert`: every way between the formats, what PyTorch makes of the files, and what is
// left when something goes wrong.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "checking/files_for_tests.h"
#include "formats/huggingface.h"
#include "formats/pth_writer.h"
#include "formats/safetensors.h"
#include "models/model.h"
#include "program_test.h"

namespace rookery {
namespace {

constexpr char kPython[] = "/usr/bin/python3";

class Convert : public Cli {
 protected:
  void expect_converts(const std::vector<std::string>& arguments) const {
    std::vector<std::string> words = {"convert"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const Result result = run(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find("wrote "), std::string::npos) << result.err;
  }

  // The logits as they are printed: all digits of each.
  std::string logits_of(const std::string& model, const std::string& dtype = "as-stored") const {
    const Result result =
        run({"logits", model, "--ids", "34,105,110,1,255", "--rows", "all", "--dtype", dtype});
    EXPECT_EQ(result.code, 0) << result.err;
    // The line names the model's file.
    Json lines = Json::parse(result.out, nullptr, false);
    EXPECT_FALSE(lines.is_discarded()) << result.out;
    if (lines.is_object()) lines.erase("model");
    return lines.dump();
  }

  // What lies in the test's folder, but for the files that the test program itself needs.
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name != "stdin" && name != "stdout" && name != "stderr") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Runs a Python program; its output.
  std::string python(const std::string& program, const std::vector<std::string>& arguments,
                     int* code) const {
    std::ofstream(path("program.py")) << program;
    std::string command = fmt::format("{} '{}'", kPython, path("program.py"));
    for (const std::string& argument : arguments) command += fmt::format(" '{}'", argument);
    command += fmt::format(" > '{}' 2>&1", path("python.out"));
    *code = std::system(command.c_str());
    return read_text_file(path("python.out"));
  }

  bool has_torch() const {
    int code = -1;
    if (fs::exists(kPython)) python("import torch", {}, &code);
    return code == 0;
  }
};

std::string contents_of(const StoredTensor& tensor) {
  TensorReader reader;
  return {static_cast<const char*>(reader.read(tensor)), static_cast<size_t>(tensor.bytes())};
}

// Bytes, types and shapes; the order may differ.
void expect_same_tensors(const fs::path& a, const fs::path& b) {
  const TensorSource first = open_checkpoint(a), second = open_checkpoint(b);
  EXPECT_EQ(first.tensors.size(), second.tensors.size());
  for (const StoredTensor& tensor : first.tensors) {
    const StoredTensor* other = second.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(tensor.dtype, other->dtype) << tensor.name;
    EXPECT_EQ(tensor.shape, other->shape) << tensor.name;
    EXPECT_TRUE(contents_of(tensor) == contents_of(*other)) << tensor.name;
  }
}

// -------------------------------------------------------------------------------------------------

TEST_F(Convert, GoldenModelsGiveTheSameLogitsInEveryFormat) {
  if (!fs::exists(golden_folder())) GTEST_SKIP() << "there are no golden files";
  for (const char* name : {"ref-v4.pth", "tiny-rwkv-4v0-660K-FP32.bin"}) {
    SCOPED_TRACE(name);
    const std::string golden = (golden_folder() / name).string();
    const std::string wanted = logits_of(golden);
    for (const char* output : {"m.safetensors", "m.pth", "m-hf"}) {
      SCOPED_TRACE(output);
      fs::remove_all(path(output));
      expect_converts({golden, path(output)});
      expect_same_tensors(golden, path(output));
      EXPECT_TRUE(logits_of(path(output)) == wanted);
    }
    // Once narrowed, the numbers stay what they are through every format.
    expect_converts({golden, path("low.safetensors"), "--dtype", "bf16", "--force"});
    const std::string low = logits_of(path("low.safetensors"));
    for (const char* output : {"low.pth", "low-hf"}) {
      fs::remove_all(path(output));
      expect_converts({path("low.safetensors"), path(output)});
      EXPECT_TRUE(logits_of(path(output)) == low) << output;
    }
    expect_converts({path("low-hf"), path("wide.pth"), "--dtype", "f32", "--force"});
    EXPECT_TRUE(logits_of(path("wide.pth"), "bf16") == low);
    // The numbers of ref-v4 are bfloat16 already; those of the other are not.
    EXPECT_EQ(low == wanted, std::string(name) == "ref-v4.pth");
  }
}

TEST_F(Convert, ARoundTripGivesTheSameBytes) {
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    SCOPED_TRACE(dtype);
    const std::string model = make_model(std::string(dtype) + ".safetensors", {"--dtype", dtype});
    const auto name = [&](const char* ending) { return path(std::string(dtype) + ending); };
    expect_converts({model, name("-1.pth")});
    expect_converts({name("-1.pth"), name("-2"), "--shard-size", "20KB"});
    EXPECT_TRUE(fs::exists(fs::path(name("-2")) / "model.safetensors.index.json"));
    expect_converts({name("-2"), name("-3.safetensors")});
    expect_converts({name("-3.safetensors"), name("-4"), "--to", "pth"});
    expect_same_tensors(model, name("-4"));
    EXPECT_TRUE(read_text_file(name("-1.pth")) == read_text_file(name("-4")));
  }
}

// Sizes of 1 may be missing in a file: what is written has the shapes of the public checkpoints.
TEST_F(Convert, ShapesAreThoseOfTheTable) {
  const std::string model = make_model();
  const TensorSource source = open_checkpoint(model);
  std::vector<StoredTensor> squeezed = source.tensors;
  int64_t changed = 0;
  for (StoredTensor& tensor : squeezed) {
    if (tensor.name.find("time_mix") == std::string::npos) continue;
    EXPECT_EQ(tensor.shape, (Shape{1, 1, 32})) << tensor.name;
    tensor.shape = {32};
    ++changed;
  }
  EXPECT_EQ(changed, 10);
  write_safetensors(path("squeezed.safetensors"), squeezed, source.metadata);
  EXPECT_TRUE(logits_of(path("squeezed.safetensors")) == logits_of(model));
  for (const char* output : {"wide.safetensors", "wide.pth", "wide-hf"}) {
    SCOPED_TRACE(output);
    expect_converts({path("squeezed.safetensors"), path(output)});
    expect_same_tensors(model, path(output));
  }
}

TEST_F(Convert, GenerationsWithoutATableKeepNamesAndShapes) {
  if (!fs::exists(golden_folder())) GTEST_SKIP() << "there are no golden files";
  for (const char* generation : {"5.0", "5.1", "5.2", "6", "7"}) {
    SCOPED_TRACE(generation);
    if (has_generation(generation)) continue;
    const std::string golden = (golden_folder() / fmt::format("ref-v{}.pth", generation)).string();
    expect_converts({golden, path("a.safetensors"), "--force"});
    expect_same_tensors(golden, path("a.safetensors"));
    expect_converts({path("a.safetensors"), path("b.pth"), "--force"});
    expect_same_tensors(golden, path("b.pth"));
    expect_refused({"convert", golden, path("hf")}, 1,
                   fmt::format("the model is RWKV-{}", generation));
  }
  // rwkv.cpp's fives were made with another epsilon of the group norm: it is not forgotten.
  const auto five = golden_folder() / "tiny-rwkv-5v2-730K-FP32.bin";
  expect_converts({five.string(), path("five.safetensors")});
  expect_same_tensors(five, path("five.safetensors"));
  EXPECT_EQ(open_checkpoint(path("five.safetensors")).group_norm_epsilon, 1e-5f);
  expect_refused({"convert", five.string(), path("five.pth")}, 1, "which a .pth cannot say");
}

TEST_F(Convert, BlocksAreReadByEveryVerb) {
  const std::string model = make_model();
  const Json told =
      json_of({"convert", model, path("q8.safetensors"), "--dtype", "q8_0", "--json"});
  EXPECT_EQ(told["dtype"], "mixed");
  const Json plain = json_of({"info", model, "--json", "--tensors"});
  const Json info = json_of({"info", path("q8.safetensors"), "--json", "--tensors"});
  EXPECT_EQ(info["parameters"], plain["parameters"]);
  // All matrices and nothing else: 34 bytes for 32 numbers.
  const int64_t vectors = info["stored"]["f32"], matrices = info["stored"]["q8_0"];
  EXPECT_EQ(matrices % 34, 0);
  EXPECT_EQ(vectors / 4 + matrices / 34 * 32, info["parameters"]);
  EXPECT_EQ(told["bytes"], vectors + matrices);
  EXPECT_LT(info["file_bytes"], 0.4 * plain["file_bytes"].get<double>());
  for (const Json& tensor : info["tensors"]) {
    const std::string name = tensor["name"];
    const bool matrix = tensor["shape"].size() == 2;
    EXPECT_EQ(tensor["dtype"], matrix ? "q8_0" : "f32") << name;
  }
  const Result shown = run({"info", path("q8.safetensors")});
  EXPECT_NE(shown.out.find("q8_0 "), std::string::npos) << shown.out;

  std::ofstream(path("text.txt")) << "A text of some words, and some more.\n";
  const std::string q8 = path("q8.safetensors");
  EXPECT_EQ(run({"generate", q8, "-p", "Once", "-n", "5", "--quiet"}).code, 0);
  EXPECT_EQ(run({"logits", q8, "-p", "Once"}).code, 0);
  EXPECT_EQ(run({"eval", "perplexity", q8, "--data", path("text.txt")}).code, 0);
  EXPECT_EQ(run({"chat", q8, "--max-tokens", "3"}, "Hello\n").code, 0);
  EXPECT_EQ(run({"check", q8, "--context", "2"}).code, 0);
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    EXPECT_EQ(run({"generate", q8, "-p", "Once", "-n", "5", "--dtype", dtype}).code, 0) << dtype;
  }
}

TEST_F(Convert, BlocksStayBlocksAndBecomeNumbers) {
  const std::string model = make_model("m.safetensors", {"--dtype", "bf16"});
  expect_converts({model, path("q8.safetensors"), "--dtype", "q8_0"});
  const std::string q8 = path("q8.safetensors");
  const TensorSource whole = open_checkpoint(model), low = open_checkpoint(q8);
  EXPECT_EQ(whole.metadata, low.metadata);
  for (const StoredTensor& tensor : whole.tensors) {
    const StoredTensor& other = *low.find(tensor.name);
    if (other.block_type == nullptr) {
      EXPECT_TRUE(contents_of(tensor) == contents_of(other)) << tensor.name;
      continue;
    }
    TensorReader first, second;
    const auto* a = static_cast<const BFloat16*>(first.read(tensor));
    const auto* b = static_cast<const float*>(second.read(other));
    for (int64_t i = 0; i < tensor.shape.count(); i += kBlock) {
      float most = 0;
      for (int64_t j = i; j < i + kBlock; ++j) most = std::max(most, std::abs(to_float(a[j])));
      for (int64_t j = i; j < i + kBlock; ++j) {
        // Half a step of most / 127; a float16 rounds the step by 2^-11 at most.
        ASSERT_LE(std::abs(to_float(a[j]) - b[j]), most / 254 * 1.01f) << tensor.name << " " << j;
      }
    }
  }
  // As stored, or asked for again: the same bytes.
  expect_converts({q8, path("same.safetensors")});
  EXPECT_TRUE(read_text_file(path("same.safetensors")) == read_text_file(q8));
  expect_converts({q8, path("twice.safetensors"), "--dtype", "q8_0"});
  EXPECT_TRUE(read_text_file(path("twice.safetensors")) == read_text_file(q8));
  // Other formats hold the numbers: the logits stay, bit for bit.
  const std::string wanted = logits_of(q8);
  for (const char* output : {"m.pth", "m-hf"}) {
    expect_converts({q8, path(output)});
    EXPECT_TRUE(logits_of(path(output)) == wanted) << output;
  }
  expect_converts({q8, path("f32.safetensors"), "--dtype", "f32"});
  EXPECT_TRUE(logits_of(path("f32.safetensors")) == wanted);
  const Json info = json_of({"info", path("f32.safetensors"), "--json"});
  EXPECT_FALSE(info["stored"].contains("q8_0"));

  for (const char* output : {"x.pth", "x-hf"}) {
    expect_refused({"convert", model, path(output), "--dtype", "q8_0"}, 2,
                   "q8_0 can be stored in safetensors files only");
    EXPECT_FALSE(fs::exists(path(output)));
  }
  ASSERT_EQ(run({"init", "--layers", "1", "--width", "20", "-o", path("odd.safetensors")}).code, 0);
  expect_refused({"convert", path("odd.safetensors"), path("x.safetensors"), "--dtype", "q8_0"}, 1,
                 "rows of a multiple of 32");
}

TEST_F(Convert, BlocksOfAGoldenModelGiveNearlyItsLogits) {
  if (!fs::exists(golden_folder())) GTEST_SKIP() << "there are no golden files";
  const std::string golden = (golden_folder() / "tiny-rwkv-4v0-660K-FP32.bin").string();
  expect_converts({golden, path("q8.safetensors"), "--dtype", "q8_0"});
  const auto logits = [&](const std::string& model) {
    std::vector<double> values;
    const Json printed = Json::parse(logits_of(model));
    for (const Json& row : printed["rows"]) {
      for (const Json& value : row["logits"]) values.push_back(value);
    }
    return values;
  };
  const std::vector<double> wanted = logits(golden), got = logits(path("q8.safetensors"));
  ASSERT_EQ(wanted.size(), 5u * 256);
  ASSERT_EQ(got.size(), wanted.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
    size += wanted[i] * wanted[i];
  }
  // Each product's weights are off by up to 1/254 of the largest of 32: about 1/500 in the mean,
  // and four layers of four products add up.
  EXPECT_LT(std::sqrt(error / size), 0.02);
  EXPECT_GT(error, 0);
}

TEST_F(Convert, BlocksAreTheStartOfATraining) {
  const std::string model = make_model();
  expect_converts({model, path("q8.safetensors"), "--dtype", "q8_0"});
  std::ofstream(path("text.txt")) << std::string(4000, 'a') << "bcdefgh";
  const Result trained =
      run({"train", "--data", path("text.txt"), "--model", path("q8.safetensors"), "-o",
           path("run"), "--steps", "2", "--batch", "1", "--context", "16"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Json info = json_of({"info", path("run"), "--json"});
  EXPECT_EQ(info["stored"]["f32"], 4 * info["parameters"].get<int64_t>());
  EXPECT_TRUE(fs::exists(path("run/learning_curve.svg")));
}

TEST_F(Convert, TellsWhatItWroteAsJson) {
  const std::string model = make_model();
  const Json json = json_of({"convert", model, path("m.pth"), "--dtype", "f16", "--json"});
  const Json info = json_of({"info", path("m.pth"), "--json"});
  EXPECT_EQ(json["format"], "pth");
  EXPECT_EQ(json["input_format"], "safetensors");
  EXPECT_EQ(json["dtype"], "f16");
  EXPECT_EQ(json["generation"], "4");
  EXPECT_EQ(json["parameters"], info["parameters"]);
  EXPECT_EQ(json["bytes"], info["stored"]["f16"]);
  EXPECT_EQ(json["tensors"], open_checkpoint(model).tensors.size());
  EXPECT_GT(json["seconds"], 0);
}

TEST_F(Convert, TrainingRunsLoseTheirOptimizerAndKeepTheirDescription) {
  std::ofstream(path("text.txt")) << std::string(4000, 'a') << "bcdefgh";
  const Result trained =
      run({"train", "--data", path("text.txt"), "-o", path("run"), "--layers", "1", "--width", "32",
           "--steps", "1", "--batch", "1", "--context", "16"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  fs::remove(path("run/model.safetensors"));
  const Result result = run({"convert", path("run"), path("m.safetensors")});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.err.find("tensors of the optimizer"), std::string::npos) << result.err;
  const TensorSource source = open_checkpoint(path("m.safetensors"));
  for (const StoredTensor& tensor : source.tensors) {
    EXPECT_FALSE(tensor.name.starts_with("optimizer")) << tensor.name;
  }
  EXPECT_EQ(Json::parse(source.metadata.at("rookery"))["step"], 1);
  expect_converts({path("run"), path("hf")});
  EXPECT_EQ(Json::parse(open_checkpoint(path("hf")).metadata.at("rookery"))["step"], 1);
  EXPECT_EQ(Json::parse(read_text_file(path("hf/config.json")))["context_length"], 16);
}

TEST_F(Convert, TokenizersGoAlong) {
  const std::string model = make_model();
  const std::string text = "{\"model\": {\"type\": \"BPE\"}}", other = "1 'a' 1\n";
  const TensorSource source = open_checkpoint(model);
  write_safetensors(path("m.safetensors"), source.tensors, {{"tokenizer", text}});
  expect_converts({path("m.safetensors"), path("hf")});
  EXPECT_EQ(read_text_file(path("hf/tokenizer.json")), text);
  expect_converts({path("hf"), path("back.safetensors")});
  EXPECT_EQ(open_checkpoint(path("back.safetensors")).metadata.at("tokenizer"), text);

  const Result result = run({"convert", path("hf"), path("m.pth")});
  EXPECT_NE(result.err.find("the tokenizer lies beside it"), std::string::npos) << result.err;
  EXPECT_EQ(read_text_file(path("tokenizer.json")), text);
  expect_converts({path("hf"), path("again.pth")});
  // Another model's tokenizer is not replaced without a word.
  std::ofstream(path("tokenizer.json")) << other;
  expect_refused({"convert", path("hf"), path("third.pth")}, 1, "where another one lies");
  EXPECT_FALSE(fs::exists(path("third.pth")));
  EXPECT_EQ(read_text_file(path("tokenizer.json")), other);
  expect_converts({path("hf"), path("third.pth"), "--force"});
  EXPECT_EQ(read_text_file(path("tokenizer.json")), text);

  write_safetensors(path("w.safetensors"), source.tensors, {{"tokenizer", other}});
  expect_converts({path("w.safetensors"), path("world")});
  EXPECT_EQ(read_text_file(path("world/rwkv_vocab_v20230424.txt")), other);
}

TEST_F(Convert, CarriesTheEpsilonOfTheNorms) {
  const std::string model = make_model();
  const TensorSource source = open_checkpoint(model);
  write_safetensors(path("m.safetensors"), source.tensors, {{"layer_norm_epsilon", "0.1"}});
  const std::string wanted = logits_of(path("m.safetensors"));
  EXPECT_FALSE(wanted == logits_of(model));
  expect_converts({path("m.safetensors"), path("hf")});
  expect_converts({path("hf"), path("back.safetensors")});
  EXPECT_TRUE(logits_of(path("hf")) == wanted);
  EXPECT_TRUE(logits_of(path("back.safetensors")) == wanted);
  expect_refused({"convert", path("hf"), path("m.pth")}, 1, "which a .pth cannot say");
  for (const char* bad : {"", "x", "nan", "inf", "-1", "0", "2", "1e-5 "}) {
    write_safetensors(path("bad.safetensors"), source.tensors, {{"layer_norm_epsilon", bad}});
    expect_refused({"info", path("bad.safetensors")}, 1, "expected a number between 0 and 1");
  }
}

TEST_F(Convert, FoldersStandForTheirModel) {
  const std::string model = make_model("m.safetensors");
  fs::create_directory(path("folder"));
  expect_refused({"info", path("folder")}, 1, "holds no model");
  expect_converts({model, path("folder/a.pth")});
  EXPECT_EQ(json_of({"info", path("folder"), "--json"})["format"], "pth");
  expect_converts({path("folder"), path("folder/b.pth")});
  expect_refused({"info", path("folder")}, 1, "holds 2 models (a.pth, b.pth): name one of them");
  expect_converts({model, path("hf/")});
  const Json info = json_of({"info", path("hf"), "--json"});
  EXPECT_EQ(info["format"], "huggingface");
  EXPECT_EQ(info["file_bytes"], fs::file_size(path("hf/model.safetensors")));
}

TEST_F(Convert, RefusesAndSaysWhy) {
  const std::string model = make_model();
  const std::string before = read_text_file(model);
  expect_refused({"convert"}, 2, "IN");
  expect_refused({"convert", model}, 2, "OUT");
  expect_refused({"convert", model, path("m.bin")}, 2, "names no format that is written");
  expect_refused({"convert", model, path("m.pth"), "--to", "gguf"}, 2, "gguf");
  expect_refused({"convert", model, path("m.pth"), "--dtype", "f64"}, 2, "f64");
  for (const char* size : {"", "5", "0GB", "5TB", "-5GB", "99999999999999GB", "5 GB"}) {
    if (std::string(size) == "5") continue;
    expect_refused({"convert", model, path("m"), "--shard-size", size}, 2, "invalid size");
  }
  for (const char* more : {"", "--force"}) {
    std::vector<std::string> same = {"convert", model, folder_.string() + "/./model.safetensors"};
    if (*more != 0) same.emplace_back(more);
    expect_refused(same, 1, "is the model that is read");
  }
  expect_refused(
      {"convert", model, path("m.pth"), "--dtype", "bf16", "--to", "hf", "--shard-size", "0"}, 2,
      "invalid size");
  expect_converts({model, path("m.pth")});
  expect_refused({"convert", model, path("m.pth")}, 1, "exists already");
  expect_converts({model, path("m.pth"), "--force"});
  expect_converts({model, path("hf")});
  for (const char* more : {"", "--force"}) {
    std::vector<std::string> again = {"convert", model, path("hf")};
    if (*more != 0) again.emplace_back(more);
    expect_refused(again, 1, "is not empty");
  }
  expect_refused({"convert", path("hf"), path("hf")}, 1, "is the model that is read");
  expect_refused({"convert", path("hf"), path("hf/model.safetensors"), "--force"}, 1,
                 "is the model that is read");
  expect_refused({"convert", model, path("none/m.pth")}, 1, "there is no folder");
  EXPECT_TRUE(read_text_file(model) == before);

  const float large[] = {1, 1e6f, 2, 3};
  const std::vector<StoredTensor> other = {{"blocks.0.att.r_k", DType::kF32, {1, 1}, large},
                                           {"blocks.0.att.k_k", DType::kF32, {1, 1, 1}, large},
                                           {"blocks.0.att.x", DType::kF32, {4}, large},
                                           {"emb.weight", DType::kF32, {1, 1}, large}};
  if (!has_generation("7")) {
    write_safetensors(path("seven.safetensors"), other, {});
    expect_refused({"convert", path("seven.safetensors"), path("seven.pth"), "--dtype", "f16"}, 1,
                   "tensor blocks.0.att.x holds 1000000, which is infinite in f16");
    EXPECT_FALSE(fs::exists(path("seven.pth")));
    expect_converts({path("seven.safetensors"), path("seven.pth"), "--dtype", "bf16"});
  }
  for (const auto& [name, why] :
       {std::pair("blocks.0.qkv.x", "generation 7b"),
        std::pair("blocks.0.att.gate_w1", "generation 6a"), std::pair("w", "no RWKV model")}) {
    const std::vector<StoredTensor> variant = {{name, DType::kF32, {1}, large}};
    write_safetensors(path("variant.safetensors"), variant, {});
    expect_refused({"convert", path("variant.safetensors"), path("variant.pth")}, 1, why);
  }
}

// -------------------------------------------------------------------------------------------------

constexpr char kDump[] = R"(
import inspect, json, sys, torch
types = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
strict = 'weights_only' in inspect.signature(torch.load).parameters
for path in sys.argv[1:]:
    state = torch.load(path)
    assert type(state) is dict
    assert not strict or list(torch.load(path, weights_only=True)) == list(state)
    print(json.dumps([[name, str(t.dtype), list(t.shape), t.is_contiguous(),
                       t.view(types[t.dtype]).numpy().tobytes().hex()]
                      for name, t in state.items()]))
)";

Json expected_dump(const std::vector<StoredTensor>& tensors) {
  Json all = Json::array();
  for (const StoredTensor& tensor : tensors) {
    Json sizes = Json::array();
    for (int axis = 0; axis < tensor.shape.rank(); ++axis) sizes.push_back(tensor.shape[axis]);
    const char* type = tensor.dtype == DType::kF32   ? "torch.float32"
                       : tensor.dtype == DType::kF16 ? "torch.float16"
                                                     : "torch.bfloat16";
    std::string digits;
    for (const unsigned char byte : contents_of(tensor)) digits += fmt::format("{:02x}", byte);
    all.push_back({tensor.name, type, sizes, true, digits});
  }
  return all;
}

TEST_F(Convert, PyTorchLoadsWhatIsWritten) {
  if (!has_torch()) GTEST_SKIP() << kPython << " cannot import torch";
  std::vector<std::string> files;
  std::vector<Json> expected;
  // Every bit pattern of 16 bits, also those that are no numbers, and shapes of every rank.
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const std::vector<StoredTensor> shapes = {
      {"blocks.0.att.time_mix_k", DType::kBF16, {1, 1, 1 << 16}, halves.data()},
      {"f16", DType::kF16, {2, 1 << 15}, halves.data()},
      {"f32", DType::kF32, {32, 1, 4, 256}, halves.data()},
      {"three", DType::kF32, {3, 5, 7}, halves.data()},
      {"scalar", DType::kF32, {}, halves.data()},
      {"empty", DType::kF32, {0}, halves.data()},
      {"empty3", DType::kBF16, {2, 0, 3}, halves.data()},
  };
  for (const ZipLimits limits : {ZipLimits{}, ZipLimits{0, 0}, ZipLimits{200'000, 0xffff}}) {
    files.push_back(path(fmt::format("shapes-{}.pth", files.size())));
    write_pth(files.back(), shapes, {}, limits);
    expected.push_back(expected_dump(shapes));
  }
  const std::string model = make_model();
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    files.push_back(path(std::string(dtype) + ".pth"));
    expect_converts({model, files.back(), "--dtype", dtype});
    expected.push_back(expected_dump(open_checkpoint(files.back()).tensors));
  }
  int code = -1;
  std::istringstream lines(python(kDump, files, &code));
  ASSERT_EQ(code, 0) << lines.str().substr(0, 2000);
  for (size_t i = 0; i < files.size(); ++i) {
    std::string line;
    std::getline(lines, line);
    EXPECT_TRUE(Json::parse(line, nullptr, false) == expected[i]) << files[i];
  }
}

constexpr char kSave[] = R"(
import sys, torch
x = torch.arange(24, dtype=torch.float32).reshape(4, 6)
torch.save({"emb.weight": x.t(), "blocks.0.a": x.half()[1:, ::2], "ln_out.weight": x[3],
            "head.weight": torch.nn.Parameter(x.bfloat16())}, sys.argv[1])
)";

TEST_F(Convert, ReadsWhatPyTorchSaves) {
  if (!has_torch()) GTEST_SKIP() << kPython << " cannot import torch";
  int code = -1;
  const std::string output = python(kSave, {path("x.pth")}, &code);
  ASSERT_EQ(code, 0) << output;
  const TensorSource source = open_checkpoint(path("x.pth"));
  TensorReader reader;
  const auto* transposed = static_cast<const float*>(reader.read(*source.find("emb.weight")));
  EXPECT_EQ(source.find("emb.weight")->shape, (Shape{6, 4}));
  for (int i = 0; i < 24; ++i) EXPECT_EQ(transposed[i], static_cast<float>(i % 4 * 6 + i / 4));
  const auto* strided = static_cast<const Float16*>(reader.read(*source.find("blocks.0.a")));
  EXPECT_EQ(source.find("blocks.0.a")->shape, (Shape{3, 3}));
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(to_float(strided[i]), static_cast<float>(6 + i / 3 * 6 + i % 3 * 2));
  }
  EXPECT_EQ(static_cast<const float*>(source.find("ln_out.weight")->data)[5], 23);
}

// -------------------------------------------------------------------------------------------------

TEST_F(Convert, AFullDiskLeavesNothing) {
  const std::string model = make_model();
  const std::vector<std::string> before = left();
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  // The child inherits the limit: files of 50000 bytes at most, as on a disk that is full.
  const rlimit small{50'000, old.rlim_max};
  for (const char* output : {"m.safetensors", "m.pth", "hf"}) {
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const Result result = run({"convert", model, path(output)});
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
    EXPECT_EQ(result.code, 1) << output << result.err;
    EXPECT_NE(result.err.find("free space"), std::string::npos) << result.err;
    EXPECT_EQ(left(), before) << output;
  }
  expect_refused({"convert", model, "/dev/full", "--to", "pth", "--force"}, 1,
                 "is a device or a pipe");
}

// A model of 256 MiB of which hardly anything is on the disk.
void make_sparse_model(const fs::path& path) {
  const Model model = Model::planned(make_config("4", 1, 1024, 24576));
  Json header;
  int64_t end = 0;
  for (const Parameter& parameter : model.parameters()) {
    const Shape& shape = parameter.spec.shape;
    Json sizes = Json::array();
    for (int axis = 0; axis < shape.rank(); ++axis) sizes.push_back(shape[axis]);
    const int64_t begin = end;
    end += 4 * shape.count();
    header[parameter.spec.name] = {
        {"dtype", "F32"}, {"shape", sizes}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 63) / 64 * 64 - 8, ' ');
  const uint64_t length = text.size();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(&length), sizeof(length))
      .write(text.data(), static_cast<std::streamsize>(text.size()));
  fs::resize_file(path, sizeof(length) + length + static_cast<uint64_t>(end));
}

TEST_F(Convert, AnInterruptLeavesNothing) {
  make_sparse_model(path("m.safetensors"));
  const std::vector<std::string> before = left();
  for (const char* output : {"o.pth", "o.safetensors", "hf"}) {
    SCOPED_TRACE(output);
    const int in = open_file("stdin", O_RDONLY | O_CREAT), out = create("stdout"),
              err = create("stderr");
    const pid_t child = start({"convert", path("m.safetensors"), path(output)}, in, out, err);
    for (const int descriptor : {in, out, err}) ::close(descriptor);
    // As soon as something is being written.
    for (int i = 0; i < 10'000 && left() == before; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGINT);
    EXPECT_EQ(wait_for(child), 1);
    EXPECT_NE(read_text_file(path("stderr")).find("interrupted: nothing was written"),
              std::string::npos);
    EXPECT_EQ(left(), before);
  }
}

}  // namespace
}  // namespace rookery
