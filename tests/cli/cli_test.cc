// The program as its users meet it: what it prints, where, and its exit code.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "formats/safetensors.h"
#include "program_test.h"

namespace rookery {
namespace {

std::vector<Json> lines_of(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
    EXPECT_FALSE(lines.back().is_discarded()) << line;
  }
  return lines;
}

TEST_F(Cli, HelpOfEveryVerbBeginsWithAnExample) {
  for (const char* verb : {"generate", "chat", "train", "data", "tokenizer", "eval", "convert",
                           "init", "info", "logits", "bench", "check"}) {
    const Result result = run({verb, "--help"});
    EXPECT_EQ(result.code, 0) << verb;
    EXPECT_TRUE(result.out.starts_with("Example:\n  rookery " + std::string(verb))) << result.out;
    EXPECT_NE(result.out.find("Usage: rookery " + std::string(verb)), std::string::npos)
        << result.out;
    EXPECT_EQ(result.err, "");
  }
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_TRUE(run({"--version"}).out.starts_with("rookery "));
}

TEST_F(Cli, WrongUsage) {
  expect_refused({}, 2, "rookery --help");
  expect_refused({"sing"}, 2, "rookery --help");
  expect_refused({"generate"}, 2, "MODEL");
  expect_refused({"generate", "m", "--sing"}, 2, "--sing");
  expect_refused({"generate", "m", "--temperature", "-1"}, 2, "temperature is -1");
  expect_refused({"generate", "m", "--temperature", "nan"}, 2, "temperature is nan");
  expect_refused({"generate", "m", "--top-p", "2"}, 2, "top-p is 2");
  expect_refused({"generate", "m", "--penalty-mode", "mine"}, 2,
                 "expected rwkv, decayed or openai");
  expect_refused({"generate", "m", "--temperature-order", "mine"}, 2, "expected last or first");
  expect_refused({"generate", "m", "--logit-bias", "5"}, 2, "expected ID=BIAS");
  expect_refused({"generate", "m", "--stop", ""}, 2, "--stop");
  expect_refused({"generate", "m", "--stop", "a\\q"}, 2, "after a backslash");
  expect_refused({"generate", "m", "--dtype", "f64"}, 2, "f64");
  expect_refused({"generate", "m", "--seed", "-1"}, 2, "--seed");
  expect_refused({"generate", "m", "-n", "-1"}, 2, "--tokens");
  expect_refused({"generate", "m", "--top-logprobs", "3"}, 2, "--json");
  expect_refused({"generate", "m", "--ids", "5;3"}, 2, "expected whole numbers");
  expect_refused({"generate", "m", "--ids", "5", "-p", "x"}, 2, "excludes");
  expect_refused({"info"}, 2, "--shape");
  expect_refused({"info", "--shape", "4:12"}, 2, "4:12:768:50277");
  expect_refused({"info", "--shape", "9:1:2:3"}, 2, "generation '9'");
  expect_refused({"init", "--layers", "2"}, 2, "required");
}

TEST_F(Cli, MissingAndBrokenFiles) {
  for (const char* verb : {"generate", "logits", "info"}) {
    expect_refused({verb, path("absent")}, 1, "found nothing there");
    expect_refused({verb, folder_.string()}, 1, "holds no model");
  }
  std::ofstream(path("text.pth")) << "Not a model.";
  expect_refused({"info", path("text.pth")}, 1, "starts like no checkpoint");
}

TEST_F(Cli, InitAndInfo) {
  const Json shape = json_of({"info", "--shape", "4:2:32:256", "--json"});
  const std::string model = make_model("fresh.safetensors", {"--seed", "7"});
  const Json info = json_of({"info", model, "--json", "--tensors"});
  for (const char* key : {"generation", "layers", "width", "attention_width", "ffn_width",
                          "vocabulary", "parameters", "parameters_by_part", "optimizer_groups",
                          "bytes", "state_bytes", "flops_per_token", "flops_per_token_training"}) {
    EXPECT_EQ(info[key], shape[key]) << key;
  }
  EXPECT_EQ(info["generation"], "4");
  EXPECT_EQ(info["format"], "safetensors");
  EXPECT_EQ(info["tokenizer"], "bytes");
  EXPECT_EQ(info["initialisation"]["seed"], 7);
  EXPECT_EQ(info["initialisation"]["scheme"], "random");
  const int64_t D = 32, L = 2, V = 256, count = 2 * V * D + 13 * D * D * L + D * (11 * L + 4);
  EXPECT_EQ(info["parameters"], count);
  EXPECT_EQ(info["stored"]["f32"], 4 * count);
  EXPECT_EQ(info["state_bytes"], 4 * 5 * D * L);
  int64_t by_part = 0, by_group = 0, by_tensor = 0;
  for (const Json& part : info["parameters_by_part"]) by_part += part.get<int64_t>();
  for (const Json& group : info["optimizer_groups"]) by_group += group["parameters"].get<int64_t>();
  for (const Json& tensor : info["tensors"]) {
    int64_t elements = 1;
    for (const Json& size : tensor["shape"]) elements *= size.get<int64_t>();
    by_tensor += elements;
  }
  EXPECT_EQ(by_part, count);
  EXPECT_EQ(by_group, count);
  EXPECT_EQ(by_tensor, count);

  const Result table = run({"info", model, "--tensors"});
  EXPECT_EQ(table.code, 0);
  EXPECT_NE(table.out.find("RWKV-4"), std::string::npos);
  EXPECT_NE(table.out.find("blocks.1.att.key.weight"), std::string::npos);
}

// arXiv 2305.13048, Table 2, as printed there.
TEST_F(Cli, PaperTable) {
  const Json rows = json_of({"info", "--paper-table", "--json"});
  const struct {
    const char *name, *parameters, *flops;
  } printed[] = {{"169M", "1.693e+08", "2.613e+08"}, {"430M", "4.304e+08", "7.573e+08"},
                 {"1.5B", "1.515e+09", "2.823e+09"}, {"3B", "2.985e+09", "5.710e+09"},
                 {"7B", "7.393e+09", "1.437e+10"},   {"14B", "1.415e+10", "2.778e+10"}};
  ASSERT_EQ(rows.size(), std::size(printed));
  for (size_t i = 0; i < rows.size(); ++i) {
    const Json& row = rows[i];
    const int64_t D = row["width"], L = row["layers"], V = 50277;
    EXPECT_EQ(row["name"], printed[i].name);
    EXPECT_EQ(row["parameters"], 2 * V * D + 13 * D * D * L + D * (11 * L + 4));
    EXPECT_EQ(fmt::format("{:.3e}", row["parameters"].get<double>()), printed[i].parameters);
    EXPECT_EQ(row["flops_per_token"], 2 * (V * D + 13 * D * D * L));
    EXPECT_EQ(fmt::format("{:.3e}", row["flops_per_token"].get<double>()), printed[i].flops);
    EXPECT_EQ(row["flops_per_token_training"], 3 * row["flops_per_token"].get<int64_t>());
  }
  EXPECT_NE(run({"info", "--paper-table"}).out.find("169,342,464 (1.693e+08)"), std::string::npos);
}

TEST_F(Cli, InitRepeatsAndProtectsFiles) {
  const std::string first = make_model("a.safetensors", {"--seed", "3"});
  const std::string second = make_model("b.safetensors", {"--seed", "3"});
  const std::string other = make_model("c.safetensors", {"--seed", "4"});
  EXPECT_EQ(read_text_file(first), read_text_file(second));
  EXPECT_NE(read_text_file(first), read_text_file(other));
  const std::vector<std::string> again = {"init", "--layers", "1", "--width", "32", "-o", first};
  expect_refused(again, 1, "exists already");
  EXPECT_EQ(read_text_file(first), read_text_file(second));
  std::vector<std::string> forced = again;
  forced.emplace_back("--force");
  EXPECT_EQ(run(forced).code, 0);
  EXPECT_EQ(json_of({"info", first, "--json"})["layers"], 1);
  expect_refused(
      {"init", "--layers", "1", "--width", "32", "-o", path("d.safetensors"), "--ranks", "32"}, 2,
      "leave it out");
  expect_refused(
      {"init", "--generation", "9", "--layers", "1", "--width", "32", "-o", path("d.safetensors")},
      2, "generation '9'");
  const std::string half = make_model("half.safetensors", {"--dtype", "bf16"});
  const Json stored = json_of({"info", half, "--json"})["stored"];
  EXPECT_GT(stored["bf16"], stored["f32"]);
}

TEST_F(Cli, LogitsAgreeHoweverThePromptIsRead) {
  const std::string model = make_model();
  const Json all = json_of({"logits", model, "-p", "hello", "--rows", "all"});
  EXPECT_EQ(all["generation"], "4");
  EXPECT_EQ(all["vocabulary"], 256);
  EXPECT_EQ(all["tokens"], Json({104, 101, 108, 108, 111}));
  ASSERT_EQ(all["rows"].size(), 5u);
  const Json one =
      json_of({"logits", model, "--ids", "104,101,108,108,111", "--rows", "all", "--one-by-one"});
  const Json last = json_of({"logits", model, "-p", "hello"});
  const Json some = json_of({"logits", model, "-p", "hello", "--rows", "3,0,3"});
  ASSERT_EQ(last["rows"].size(), 1u);
  ASSERT_EQ(some["rows"].size(), 2u);
  EXPECT_EQ(some["rows"][0]["position"], 0);
  EXPECT_EQ(some["rows"][1]["position"], 3);
  for (int row = 0; row < 5; ++row) {
    ASSERT_EQ(all["rows"][row]["position"], row);
    ASSERT_EQ(all["rows"][row]["logits"].size(), 256u);
    for (int id = 0; id < 256; ++id) {
      const float expected = all["rows"][row]["logits"][id];
      EXPECT_NEAR(one["rows"][row]["logits"][id].get<float>(), expected, 1e-4);
      const Json* again = row == 4 ? &last["rows"][0] : row == 3 ? &some["rows"][1] : nullptr;
      if (again != nullptr) {
        EXPECT_NEAR((*again)["logits"][id].get<float>(), expected, 1e-4);
      }
    }
  }
  // From a file and from standard input: the same bytes.
  std::ofstream(path("prompt.txt")) << "hello";
  EXPECT_EQ(json_of({"logits", model, "--prompt-file", path("prompt.txt")}), last);
  EXPECT_EQ(Json::parse(run({"logits", model}, "hello").out), last);
  // Longer than a session's piece: rows on both sides of its borders.
  const std::string text(1100, 'x');
  const Json border = json_of({"logits", model, "-p", text, "--rows", "510,511,512,1099"});
  const Json steps =
      json_of({"logits", model, "-p", text, "--rows", "510,511,512,1099", "--one-by-one"});
  ASSERT_EQ(border["rows"].size(), 4u);
  for (int row = 0; row < 4; ++row) {
    EXPECT_EQ(border["rows"][row]["position"], steps["rows"][row]["position"]);
    for (int id = 0; id < 256; ++id) {
      EXPECT_NEAR(border["rows"][row]["logits"][id].get<float>(),
                  steps["rows"][row]["logits"][id].get<float>(), 1e-3);
    }
  }
}

TEST_F(Cli, LogitsTop) {
  const std::string model = make_model();
  const Json all = json_of({"logits", model, "-p", "hello"})["rows"][0]["logits"];
  const Json top = json_of({"logits", model, "-p", "hello", "--top", "256"})["rows"][0]["top"];
  ASSERT_EQ(top.size(), 256u);
  double sum = 0;
  for (size_t i = 0; i < top.size(); ++i) {
    EXPECT_EQ(top[i]["logit"], all[top[i]["id"].get<int>()]);
    EXPECT_LE(top[i]["logit"], top[i > 0 ? i - 1 : 0]["logit"]);
    EXPECT_TRUE(top[i]["id"] != 'q' || top[i]["text"] == "q") << top[i];
    sum += std::exp(top[i]["log_probability"].get<double>());
  }
  EXPECT_NEAR(sum, 1, 1e-5);
  EXPECT_EQ(json_of({"logits", model, "-p", "hello", "--top", "3"})["rows"][0]["top"].size(), 3u);
}

TEST_F(Cli, LogitsRefusals) {
  const std::string model = make_model();
  expect_refused({"logits", model, "--ids", "5,256"}, 2, "token 256 is not in the vocabulary");
  expect_refused({"logits", model, "--ids", "-1"}, 2, "token -1 is not in the vocabulary");
  expect_refused({"logits", model, "-p", "abc", "--rows", "3"}, 2, "rows 0 to 2");
  expect_refused({"logits", model, "-p", "abc", "--rows", "-1"}, 2, "rows 0 to 2");
  expect_refused({"logits", model, "-p", "abc", "--rows", "1,x"}, 2, "no choice of rows");
  expect_refused({"logits", model, "-p", "abc", "--rows", "1,"}, 2, "no choice of rows");
}

TEST_F(Cli, GenerateRepeats) {
  const std::string model = make_model();
  const auto text = [&](std::vector<std::string> more, const std::string& tokens = "40") {
    std::vector<std::string> arguments = {"generate", model, "-p", "Once", "-n", tokens};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  const std::string greedy = text({"--greedy"});
  EXPECT_FALSE(greedy.empty());
  EXPECT_EQ(greedy, text({"--greedy"}));
  EXPECT_EQ(greedy, text({"--temperature", "0", "--seed", "9"}));
  EXPECT_EQ(greedy, text({"--top-k", "1"}));
  EXPECT_EQ("Once" + greedy, text({"--greedy", "--echo"}));
  EXPECT_EQ(text({"--seed", "5"}), text({"--seed", "5"}));
  EXPECT_NE(text({"--seed", "5"}), text({"--seed", "6"}));
  EXPECT_NE(text({"--greedy", "--presence", "5", "--frequency", "5"}), greedy);
  EXPECT_EQ(text({"--greedy", "--logit-bias", "65=1000"}), std::string(40, 'A'));
  EXPECT_EQ(text({"--greedy", "--logit-bias", "65=1000", "--logit-bias", "66=900", "--ban", "65"}),
            std::string(40, 'B'));
  EXPECT_EQ(text({}, "0"), "");
  for (const char* mode : {"rwkv", "decayed", "openai"})
    text({"--penalty-mode", mode, "--presence", "1"});
  for (const char* order : {"last", "first"}) {
    text({"--temperature-order", order, "--min-p", "0.1", "--typical", "0.9"});
  }
  for (const char* dtype : {"as-stored", "f32", "f16", "bf16"}) text({"--dtype", dtype});
  text({"--deterministic", "--threads", "1"});
}

// The seed in the last line repeats the text.
TEST_F(Cli, GenerateTellsItsSeed) {
  const std::string model = make_model();
  const Result first = run({"generate", model, "-n", "30"});
  EXPECT_EQ(first.code, 0);
  const size_t at = first.err.find("seed ");
  ASSERT_NE(at, std::string::npos) << first.err;
  const std::string seed = std::to_string(std::stoull(first.err.substr(at + 5)));
  SCOPED_TRACE("seed " + seed);
  EXPECT_EQ(run({"generate", model, "-n", "30", "--seed", seed}).out, first.out);
  EXPECT_EQ(run({"generate", model, "-n", "30", "--seed", seed, "--quiet"}).err, "");
}

TEST_F(Cli, GenerateJson) {
  const std::string model = make_model();
  const std::vector<std::string> base = {"generate", model, "-p",     "Once",
                                         "-n",       "50",  "--seed", "11"};
  const std::string plain = run(base).out;
  std::vector<std::string> arguments = base;
  for (const char* more : {"--json", "--top-logprobs", "4"}) arguments.emplace_back(more);
  const Result result = run(arguments);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  const std::vector<Json> lines = lines_of(result.out);
  ASSERT_FALSE(lines.empty());
  std::string text;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Json& line = lines[i];
    text += line.value("text", "");
    if (i + 1 == lines.size()) continue;
    EXPECT_EQ(line["bytes"], Json::array({line["id"]}));
    EXPECT_LE(line["log_probability"].get<double>(), 0);
    ASSERT_EQ(line["top"].size(), 4u);
    EXPECT_GE(line["top"][0]["log_probability"], line["top"][3]["log_probability"]);
  }
  EXPECT_EQ(text, plain);
  const Json& done = lines.back();
  EXPECT_EQ(done["done"], true);
  EXPECT_EQ(done["tokens"], lines.size() - 1);
  EXPECT_EQ(done["prompt_tokens"], 4);
  EXPECT_EQ(done["seed"], 11);
  EXPECT_GT(done["tokens_per_second"], 0);
  EXPECT_TRUE(done["reason"] == "length" || done["reason"] == "end") << done;
}

TEST_F(Cli, GenerateEnds) {
  const std::string model = make_model();
  const auto done = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", model, "-n", "20", "--greedy", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return lines_of(result.out).back();
  };
  EXPECT_EQ(done({"--logit-bias", "0=1000"})["reason"], "end");
  EXPECT_EQ(done({"--logit-bias", "0=1000"})["tokens"], 0);
  EXPECT_EQ(done({"--logit-bias", "0=1000"})["prompt_tokens"], 1);
  EXPECT_EQ(done({"--logit-bias", "65=1000"})["reason"], "length");
  EXPECT_EQ(done({"--logit-bias", "65=1000"})["tokens"], 20);
  const Json stop = done({"--logit-bias", "65=1000", "--stop", "xyz", "--stop", "AAA"});
  EXPECT_EQ(stop["reason"], "stop");
  EXPECT_EQ(stop["tokens"], 3);
  EXPECT_EQ(done({"--logit-bias", "10=1000", "--stop", "\\n\\n"})["tokens"], 2);
  // What began like a stop and was none is not lost.
  const Result held = run({"generate", model, "-n", "5", "--greedy", "--logit-bias", "65=1000",
                           "--stop", "AAAAAA", "--quiet"});
  EXPECT_EQ(held.out, "AAAAA");
  EXPECT_EQ(run({"generate", model, "-n", "9", "--greedy", "--logit-bias", "65=1000", "--stop",
                 "[A]", "--quiet"})
                .out,
            "AAAAAAAAA");
}

// Bytes that are no UTF-8 never reach the reader.
TEST_F(Cli, GenerateWritesUtf8) {
  const std::string model = make_model();
  const Result result =
      run({"generate", model, "-n", "4", "--greedy", "--logit-bias", "195=1000", "--quiet"});
  EXPECT_EQ(result.out, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(Cli, GenerateWithoutATokenizer) {
  const std::string model = make_model("ids.safetensors", {"--vocab", "300"});
  expect_refused({"generate", model, "-p", "Once"}, 2, "vocabulary file with --tokenizer");
  expect_refused({"generate", model, "--ids", "5", "--stop", "x"}, 2, "--stop needs text");
  expect_refused({"generate", model, "--ids", "5,300"}, 2, "tokens 0 to 299");
  expect_refused({"generate", model, "--ids", "5", "--ban", "300"}, 2, "tokens 0 to 299");
  expect_refused({"generate", model, "--ids", "5", "--logit-bias", "300=1"}, 2, "tokens 0 to 299");
  EXPECT_EQ(
      run({"generate", model, "--ids", "5,3", "-n", "3", "--greedy", "--logit-bias", "299=1000"})
          .out,
      "299 299 299\n");
  EXPECT_EQ(run({"generate", model, "--ids", "5,3", "-n", "1", "--greedy", "--logit-bias",
                 "299=1000", "--echo"})
                .out,
            "5 3 299\n");
  const std::vector<Json> lines =
      lines_of(run({"generate", model, "--ids", "5,3", "-n", "2", "--json", "--ban", "0"}).out);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_FALSE(lines[0].contains("text"));
  EXPECT_TRUE(lines[0].contains("id"));
}

// A signal in the middle of a large product: its handler must not write over the numbers.
// A vocabulary that is rounded up: the rows of the head that are padding stand for nothing.
TEST_F(Cli, GenerateNeverChoosesPadding) {
  std::ofstream(path("tokenizer"), std::ios::binary) << "bytes";
  const std::string model = make_model("padded.safetensors", {"--vocab", "300"});
  const auto lines =
      lines_of(run({"generate", model, "--tokenizer", path("tokenizer"), "-n", "200", "--json",
                    "--temperature", "9", "--top-p", "1", "--seed", "3", "--ban", "0"})
                   .out);
  ASSERT_EQ(lines.size(), 201u);
  for (size_t i = 0; i < 200; ++i) EXPECT_LT(lines[i].at("id"), 256) << i;
}

TEST_F(Cli, AnInterruptLeavesMemoryAlone) {
  const std::string model = make_model("m.safetensors");
  std::ofstream(path("long.txt")) << std::string(4 << 20, 'x');
  for (int i = 0; i < 6; ++i) {
    const int in = ::open("/dev/null", O_RDONLY);
    const int out = create("out");
    const pid_t child = start({"generate", model, "--prompt-file", path("long.txt"), "-n", "1",
                               "--threads", i % 2 == 0 ? "1" : "2"},
                              in, out, out);
    for (const int descriptor : {in, out}) ::close(descriptor);
    std::this_thread::sleep_for(std::chrono::milliseconds(150 + 20 * i));
    ::kill(child, i % 3 == 0 ? SIGTERM : SIGINT);
    const int code = wait_for(child);
    // Before the handler is there, the signal's own effect.
    EXPECT_TRUE(code == 0 || code == -SIGINT || code == -SIGTERM)
        << code << ": " << read_text_file(path("out"));
  }
}

// A reader that leaves early, such as `head`, is no failure.
TEST_F(Cli, ClosedOutputIsQuiet) {
  const std::string model = make_model();
  const std::vector<std::vector<std::string>> commands = {
      {"generate", model, "-n", "1000", "--greedy", "--logit-bias", "65=1000"},
      {"logits", model, "-p", "hello", "--rows", "all"},
      {"info", model}};
  for (const auto& command : commands) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    ::close(ends[0]);
    const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC), err = create("stderr");
    EXPECT_EQ(wait_for(start(command, in, ends[1], err)), 0) << command[0];
    for (const int descriptor : {ends[1], in, err}) ::close(descriptor);
    EXPECT_EQ(read_text_file(path("stderr")), "") << command[0];
  }
}

TEST_F(Cli, FullDiskIsAnError) {
  const std::string model = make_model();
  const int out = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (out < 0) GTEST_SKIP() << "no /dev/full here";
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC), err = create("stderr");
  EXPECT_EQ(
      wait_for(start({"generate", model, "--greedy", "--logit-bias", "65=1000"}, in, out, err)), 1);
  for (const int descriptor : {in, out, err}) ::close(descriptor);
  EXPECT_NE(read_text_file(path("stderr")).find("cannot write to standard output"),
            std::string::npos);
}

TEST_F(Cli, InterruptEndsTheText) {
  const std::string model = make_model();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC), err = create("stderr");
  const pid_t child =
      start({"generate", model, "-n", "1000000000", "--ban", "0", "--seed", "1"}, in, ends[1], err);
  for (const int descriptor : {ends[1], in, err}) ::close(descriptor);
  std::vector<char> buffer(4096);
  EXPECT_GT(::read(ends[0], buffer.data(), buffer.size()), 0);
  ::kill(child, SIGINT);
  while (::read(ends[0], buffer.data(), buffer.size()) > 0) {
  }
  ::close(ends[0]);
  EXPECT_EQ(wait_for(child), 0);
  EXPECT_NE(read_text_file(path("stderr")).find("ended: interrupted, seed 1"), std::string::npos);
}

// A checkpoint of a generation that this version does not run is told so by name.
TEST_F(Cli, UnsupportedGenerationIsNamed) {
  const float zero = 0;
  const std::vector<StoredTensor> tensors = {{"blocks.0.att.r_k", DType::kF32, {1, 1}, &zero},
                                             {"blocks.0.att.k_k", DType::kF32, {1, 1, 1}, &zero},
                                             {"emb.weight", DType::kF32, {1, 1}, &zero}};
  write_safetensors(path("seven.safetensors"), tensors, {});
  for (const char* verb : {"generate", "logits", "info"}) {
    expect_refused({verb, path("seven.safetensors")}, 1, "RWKV generation '7' is not supported");
  }
}

TEST_F(Cli, AFolderStandsForItsModel) {
  const std::string model = make_model("model.safetensors");
  EXPECT_EQ(json_of({"info", folder_.string(), "--json"})["file"], model);
}

}  // namespace
}  // namespace rookery
