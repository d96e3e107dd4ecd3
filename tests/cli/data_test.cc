// Preparing data as its users meet it: what is written, reported, refused and left behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "program_test.h"

namespace rookery {
namespace {

class DataProgram : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write("a.txt", "first text\n<|endoftext|>\nsecond text\n");
    write("chat.jsonl",
          R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes."}]})"
          "\n");
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
  }
  std::vector<std::string> prepare(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"data",  "prepare", path("a.txt"),   "--tokenizer",
                                          "bytes", "-o",      path("prepared")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_F(DataProgram, PreparesAndTells) {
  const Json made = json_of(prepare({path("chat.jsonl"), "--json", "--context", "8"}));
  EXPECT_EQ(made.at("documents"), 3);
  EXPECT_EQ(made.at("tokens"), 11 + 1 + 12 + 1 + 25 + 1);
  EXPECT_EQ(made.at("learned"), 11 + 1 + 12 + 1 + 5 + 1);
  EXPECT_EQ(made.at("bytes"), 11 + 12 + 25);
  EXPECT_EQ(made.at("type"), "u16");
  EXPECT_EQ(made.at("mask"), true);
  EXPECT_EQ(made.at("epoch").at("windows"), (51 - 1) / 8 - 1);
  EXPECT_EQ(made.at("epoch").at("magic_primes"), Json::object());  // none above 0.9 x 6
  for (const char* suffix : {"", ".bin", ".idx"}) {
    const Json info =
        json_of({"data", "info", path("prepared") + suffix, "--context", "4", "--json"});
    EXPECT_EQ(info.at("sequences"), 3);
    EXPECT_EQ(info.at("documents"), 3);
    EXPECT_EQ(info.at("tokens"), 51);
    EXPECT_EQ(info.at("lengths"), (Json{{"min", 12}, {"median", 13}, {"max", 26}}));
    EXPECT_EQ(info.at("ids"), (Json{{"min", 0}, {"max", 'x'}}));
    EXPECT_EQ(info.at("zeros"), 3);
    EXPECT_EQ(info.at("learned"), made.at("learned"));
    EXPECT_EQ(info.at("epoch").at("magic_primes"), (Json{{"4", 11}}));
    EXPECT_EQ(info.at("beginning"),
              "first text\n<|endoftext|>second text\n<|endoftext|>User: Hi\n\nAssistant: Ye");
  }
  const Result told = run({"data", "info", path("prepared")});
  EXPECT_EQ(told.code, 0);
  EXPECT_NE(told.out.find("learned      31 tokens, 60.8%"), std::string::npos) << told.out;
  // Without the description the rest stays, and the tokenizer can be named.
  fs::remove(path("prepared.json"));
  EXPECT_FALSE(json_of({"data", "info", path("prepared"), "--json"}).contains("beginning"));
  EXPECT_EQ(
      json_of({"data", "info", path("prepared"), "--json", "--tokenizer", "bytes", "--show", "5"})
          .at("beginning"),
      "first");
}

TEST_F(DataProgram, ReplacesOnlyWhenToldTo) {
  EXPECT_EQ(run(prepare({path("chat.jsonl")})).code, 0);
  const std::string before = read_text_file(path("prepared.bin"));
  expect_refused(prepare({}), 1, "--force");
  EXPECT_EQ(read_text_file(path("prepared.bin")), before);
  const Json again = json_of(prepare({"--force", "--json"}));
  EXPECT_EQ(again.at("mask"), false);
  EXPECT_EQ(files(),
            (std::vector<std::string>{"a.txt", "chat.jsonl", "prepared.bin", "prepared.idx",
                                      "prepared.json", "stderr", "stdin", "stdout"}));
  // A failed one leaves the old.
  write("bad.jsonl", "{\n");
  expect_refused(prepare({path("bad.jsonl"), "--force"}), 1, "bad.jsonl:1");
  EXPECT_EQ(json_of({"data", "info", path("prepared"), "--json"}).at("tokens"), again.at("tokens"));
}

TEST_F(DataProgram, InvalidLinesAreCounted) {
  write("bad.jsonl", "{\"text\": \"good\"}\nno JSON\n{\"text\": 7}\n");
  expect_refused(prepare({path("bad.jsonl")}), 1, "bad.jsonl:2");
  const Json made = json_of(prepare({path("bad.jsonl"), "--skip-invalid", "--json"}));
  EXPECT_EQ(made.at("invalid_lines"), 2);
  EXPECT_EQ(made.at("documents"), 3);
  EXPECT_NE(made.at("first_invalid").get<std::string>().find("bad.jsonl:2"), std::string::npos);
}

TEST_F(DataProgram, RefusesWhatCannotBe) {
  expect_refused({"data"}, 2, "subcommand");
  expect_refused({"data", "prepare", path("a.txt"), "-o", path("x")}, 2, "--tokenizer");
  expect_refused({"data", "prepare", path("a.txt"), "--tokenizer", "bytes"}, 2, "--output");
  expect_refused(prepare({"--template", "other"}), 2, "--template");
  expect_refused(prepare({path("missing.txt")}), 1, "missing.txt");
  expect_refused(prepare({"--tokenizer", path("missing")}), 2, "--tokenizer");  // given twice
  expect_refused({"data", "info", path("nothing")}, 1, "no prepared data");
  write("x.bin", "abcd");
  expect_refused({"data", "info", path("x")}, 1, "x.idx");
  EXPECT_EQ(run(prepare({})).code, 0);
  fs::resize_file(path("prepared.idx"), 50);
  expect_refused({"data", "info", path("prepared")}, 1, "cut off or damaged");
}

TEST_F(DataProgram, AnInterruptLeavesNothing) {
  // A pipe, so that the program surely still reads when the signal comes.
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const int in = open_file("a.txt", O_RDONLY), out = create("stdout"), err = create("stderr");
  const std::vector<std::string> before = files();
  const pid_t child = start(prepare({path("pipe")}), in, out, err);
  for (const int descriptor : {in, out, err}) ::close(descriptor);
  {
    std::ofstream pipe(path("pipe"));  // waits for the reader
    const std::string text(1 << 20, 'x');
    // The pipe holds 64 KiB: after the tenth MB the program has read nine, and written some.
    for (int i = 0; i < 12; ++i) pipe << text;
    pipe.flush();
    ::kill(child, SIGINT);
  }
  EXPECT_EQ(wait_for(child), 1);
  EXPECT_NE(read_text_file(path("stderr")).find("nothing was written"), std::string::npos);
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace rookery
