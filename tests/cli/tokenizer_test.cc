// `rookery tokenizer`, and how the other verbs find a model's tokenizer.
#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "program_test.h"
#include "tokenizers/files_for_tests.h"

namespace rookery {
namespace {

class TokenizerCli : public Cli {
 protected:
  std::string put(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
};

TEST_F(TokenizerCli, EncodesAndDecodes) {
  const std::string world = put("vocab.txt", small_world());
  EXPECT_EQ(run({"tokenizer", "encode", world, "-p", "the\n\nx"}).out, "258 257 121\n");
  EXPECT_EQ(run({"tokenizer", "encode", world, "--file", put("text", "there")}).out, "260\n");
  EXPECT_EQ(run({"tokenizer", "encode", world}, "there").out, "260\n");
  EXPECT_EQ(run({"tokenizer", "decode", world, "--ids", "258,257,0,121"}).out, "the\n\nx");
  EXPECT_EQ(run({"tokenizer", "decode", world}, "258 257 121\n").out, "the\n\nx");
  EXPECT_EQ(run({"tokenizer", "encode", "bytes", "-p", "Hi"}).out, "72 105\n");
  const Json report = json_of({"tokenizer", "encode", world, "-p", "the\xe4\xbd", "--json"});
  EXPECT_EQ(report["ids"], (Json{258, 263}));
  EXPECT_EQ(report["pieces"], (Json{"the", "\xef\xbf\xbd"}));
  EXPECT_EQ(report["bytes"], 5);
  expect_refused({"tokenizer", "decode", world, "--ids", "5,x"}, 2, "expected whole numbers");
  expect_refused({"tokenizer", "decode", world, "--ids", "9999"}, 1, "expected 0 to 264");
  expect_refused({"tokenizer", "encode", put("bad", "nonsense"), "-p", "x"}, 1, "bad");
  expect_refused({"tokenizer", "encode", path("none"), "-p", "x"}, 1, "none");
  expect_refused({"tokenizer"}, 2, "subcommand");
}

TEST_F(TokenizerCli, Trains) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "the cat and the hat\n";
  const std::string data = put("text.txt", text), out = path("tokenizer.json");
  const Json report =
      json_of({"tokenizer", "train", "--data", data, "--vocab", "264", "-o", out, "--json"});
  EXPECT_EQ(report["vocab_size"], 264);
  const Json info = json_of({"tokenizer", "info", out, "--data", data, "--json"});
  EXPECT_EQ(info["tokenizer"], "bpe");
  EXPECT_EQ(info["merges"], 7);
  EXPECT_EQ(info["special_tokens"]["0"], "<|endoftext|>");
  EXPECT_EQ(info["data"]["bytes"], text.size());
  EXPECT_EQ(info["data"]["bytes_per_token"], 2);
  EXPECT_NE(run({"tokenizer", "info", out}).out.find("longest token"), std::string::npos);
  expect_refused({"tokenizer", "train", "--data", data, "-o", out}, 1, "--force");
  const Result small =
      run({"tokenizer", "train", "--data", data, "--vocab", "5000", "-o", out, "--force"});
  EXPECT_EQ(small.code, 0);
  EXPECT_NE(small.err.find("no more pairs that occur twice"), std::string::npos) << small.err;
  expect_refused({"tokenizer", "train", "--data", data, "--vocab", "256", "-o", out, "--force"}, 2,
                 "257");
  expect_refused({"tokenizer", "train", "--data", path("none"), "-o", path("x.json")}, 1, "none");
  EXPECT_FALSE(fs::exists(path("x.json")));
}

TEST_F(TokenizerCli, AModelFindsTheTokenizerBesideIt) {
  const std::string model = make_model("m.safetensors", {"--vocab", "300"});
  const std::vector<std::string> generate = {"generate", model, "-p", "the", "-n", "2", "--quiet"};
  EXPECT_EQ(run(generate).code, 2);
  // Too many ids, too few, and none at all: passed over.
  nlohmann::json large = small_bpe();
  large["model"]["vocab"]["zz"] = 400;
  put("tokenizer.json", large.dump());
  EXPECT_EQ(run(generate).code, 2);
  put("20B_tokenizer.json", "{}");
  put("rwkv_vocab_v20230424.txt", small_world());
  EXPECT_EQ(run(generate).code, 0);
  EXPECT_EQ(json_of({"info", model, "--json"})["tokenizer"], "world");
  EXPECT_EQ(run({"tokenizer", "encode", model, "-p", "the"}).out, "258\n");
  // The model's own file goes before.
  put("m.tokenizer.json", small_bpe().dump());
  EXPECT_EQ(json_of({"info", model, "--json"})["tokenizer"], "bpe");
  // The flag before all.
  expect_refused({"generate", model, "-p", "x", "--tokenizer", path("tokenizer.json")}, 1,
                 "has 401 ids, the model 300");
  const Result bytes = run({"generate", model, "-p", "the", "-n", "1", "--tokenizer", "bytes"});
  EXPECT_EQ(bytes.code, 0) << bytes.err;
  // In a folder, the one that fits.
  put("folder/tokenizer.json", large.dump());
  expect_refused({"generate", model, "-p", "x", "--tokenizer", path("folder")}, 1, "has 401 ids");
  put("folder/rwkv_vocab_v20230424.txt", small_world());
  EXPECT_EQ(run({"generate", model, "-p", "x", "-n", "1", "--tokenizer", path("folder")}).code, 0);
  expect_refused({"tokenizer", "encode", path("folder"), "-p", "x"}, 1, "several");
}

TEST_F(TokenizerCli, AModelCarriesItsTokenizer) {
  const std::string plain = make_model("plain.safetensors", {"--vocab", "300"});
  const auto with_tokenizer = [&](const std::string& name, const std::string& definition) {
    const TensorSource source = open_checkpoint(plain);
    std::map<std::string, std::string> metadata = source.metadata;
    metadata["tokenizer"] = definition;
    write_safetensors(path(name), source.tensors, metadata);
    return path(name);
  };
  put("tokenizer.json", small_bpe().dump());
  const std::string model = with_tokenizer("world.safetensors", small_world());
  EXPECT_EQ(json_of({"info", model, "--json"})["tokenizer"], "world");
  EXPECT_EQ(run({"tokenizer", "encode", model, "-p", "the"}).out, "258\n");
  EXPECT_EQ(run({"generate", model, "-p", "the", "-n", "2"}).code, 0);
  // What it carries goes before what lies beside it, also when it is bad.
  expect_refused({"generate", with_tokenizer("bad.safetensors", "nonsense"), "-p", "x"}, 1,
                 "the tokenizer in ");
  nlohmann::json large = small_bpe();
  large["model"]["vocab"]["zz"] = 400;
  expect_refused({"generate", with_tokenizer("large.safetensors", large.dump()), "-p", "x"}, 1,
                 "has 401 ids, the model 300");
}

TEST_F(TokenizerCli, MessagesNameTheTokenizer) {
  for (const auto& [size, words] :
       {std::pair("65536", "rwkv_vocab_v20230424.txt"), std::pair("50277", "20B_tokenizer.json")}) {
    const std::string model = make_model("m.safetensors", {"--vocab", size, "--force"});
    expect_refused({"generate", model, "-p", "Once"}, 2, words);
    expect_refused({"tokenizer", "encode", model, "-p", "Once"}, 1, words);
  }
}

TEST_F(TokenizerCli, GeneratesText) {
  const std::string model = make_model("m.safetensors", {"--vocab", "300"});
  const std::string world = put("vocab.txt", small_world());
  const auto generate = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {
        "generate", model,         "-p",  "the",        "-n", "4",           "--greedy",
        "--quiet",  "--tokenizer", world, "--presence", "0",  "--frequency", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  EXPECT_EQ(generate({"--logit-bias", "259=1000"}), " the the the the");
  // A stop that lies across tokens.
  EXPECT_EQ(generate({"--logit-bias", "259=1000", "--stop", "e t"}), " th");
  EXPECT_EQ(generate({"--logit-bias", "257=1000", "--stop", "\\n\\n"}), "");
  // Half a character is never shown: e4 bd, e4 bd, ...
  EXPECT_EQ(generate({"--logit-bias", "263=1000"}),
            "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  // Ids that only fill up the model's vocabulary are not chosen, whatever their bias.
  EXPECT_EQ(generate({"--logit-bias", "290=1000"}), generate({}));
}

TEST_F(TokenizerCli, BenchesTokenizing) {
  const std::string world = put("vocab.txt", small_world());
  const std::string data = put("text", "there is the text\nand a line\n");
  const Json report = json_of({"bench", "tokenize", "--tokenizer", world, "--data", data,
                               "--rounds", "2", "--megabytes", "8", "--threads", "2", "--json"});
  EXPECT_EQ(report["bytes"], 29);
  EXPECT_GT(report["tokens"], 10);
  EXPECT_EQ(report["threads"], 2);
  EXPECT_GT(report["decode_rate"], 0);
}

}  // namespace
}  // namespace rookery
