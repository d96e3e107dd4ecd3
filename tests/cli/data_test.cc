// Preparing data as its users meet it: what is written, reported, refused and left behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

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

// Rows of context + 1 tokens of data in which the id at place i is i.
class WindowsProgram : public DataProgram {
 protected:
  void SetUp() override {
    DataProgram::SetUp();
    std::string tokens(2 * kTokens, '\0');
    for (int i = 0; i < kTokens; ++i) {
      tokens[2 * i] = static_cast<char>(i & 255);
      tokens[2 * i + 1] = static_cast<char>(i >> 8);
    }
    write("count.bin", tokens);
    std::string index("MMIDIDX\0\0", 9);
    const auto put = [&](int64_t value, int bytes) {
      for (int i = 0; i < bytes; ++i) index += static_cast<char>(value >> 8 * i & 255);
    };
    put(1, 8), put(8, 1), put(1, 8), put(2, 8);  // version, u16, sequences, documents + 1
    put(kTokens, 4), put(0, 8), put(0, 8), put(1, 8);
    write("count.idx", index);
  }
  // First tokens of the windows, which are checked to be whole.
  std::vector<int32_t> starts(const std::vector<std::string>& more, int64_t context) const {
    std::vector<std::string> arguments = {"data",    "windows", path("count"),
                                          "--force", "-o",      path("w.bin")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    if (result.code != 0) return {};
    const std::string bytes = read_text_file(path("w.bin"));
    std::vector<int32_t> ids(bytes.size() / 4), first;
    std::memcpy(ids.data(), bytes.data(), ids.size() * 4);
    EXPECT_EQ(ids.size() % static_cast<size_t>(context + 1), 0u);
    for (size_t at = 0; at < ids.size(); at += static_cast<size_t>(context + 1)) {
      first.push_back(ids[at]);
      for (int64_t i = 0; i <= context; ++i) {
        EXPECT_EQ(ids[at + static_cast<size_t>(i)], ids[at] + i);
      }
    }
    return first;
  }
  static constexpr int kTokens = 1000;
};

TEST_F(WindowsProgram, AreThoseOfTheOrder) {
  const std::vector<std::string> flags = {
      "--context", "10", "--batch", "7", "--steps", "14", "--validation-fraction", "0"};
  const std::vector<int32_t> shuffled = starts(flags, 10);
  ASSERT_EQ(shuffled.size(), 98u);  // windows of an epoch: (1000 - 1) / 10 - 1
  std::vector<int32_t> sorted = shuffled;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 1; i < sorted.size(); ++i) EXPECT_EQ(sorted[i], sorted[i - 1] + 10);
  EXPECT_NE(sorted, shuffled);
  std::vector<std::string> other = flags;
  other.insert(other.end(), {"--seed", "2"});
  EXPECT_NE(starts(other, 10), shuffled);
  // More windows in a step are the same windows in the same order.
  EXPECT_EQ(
      starts({"--context", "10", "--batch", "14", "--steps", "7", "--validation-fraction", "0"},
             10),
      shuffled);
  // The formula of RWKV's public training code, with p = 89 and k = int(89 x 0.618).
  const std::vector<int32_t> magic =
      starts({"--context", "11", "--batch", "4", "--steps", "20", "--order", "magic-prime"}, 11);
  ASSERT_EQ(magic.size(), 80u);
  for (int64_t n = 0; n < 80; ++n) {
    EXPECT_EQ(magic[static_cast<size_t>(n)], 55 * (n + 1) * (n + 1) * (n + 1) % 89 * 11) << n;
  }
}

TEST_F(WindowsProgram, AreThoseOfTraining) {
  // What is held out is never seen.
  for (const int32_t start :
       starts({"--context", "10", "--steps", "50", "--validation-fraction", "0.5"}, 10)) {
    EXPECT_LE(start + 10, 499);
  }
  const Json told = json_of({"data", "windows", path("count"), "--steps", "3", "--batch", "2",
                             "--context", "8", "-o", path("told.bin"), "--json"});
  EXPECT_EQ(told.at("shape"), (Json{3, 2, 9}));
  EXPECT_EQ(told.at("bytes"), 3 * 2 * 9 * 4);
  // Text, too, with its ends of documents.
  EXPECT_EQ(run({"data", "windows", path("a.txt"), "--steps", "1", "--batch", "1", "--context",
                 "23", "-o", path("text.bin")})
                .code,
            0);
  const std::string bytes = read_text_file(path("text.bin"));
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 4) text += bytes[i];
  EXPECT_EQ(text, std::string("first text\n\0second text\n", 24));
}

TEST_F(WindowsProgram, RefusesWhatCannotBe) {
  const std::vector<std::string> words = {"data",      "windows", path("count"), "--steps",    "2",
                                          "--context", "10",      "-o",          path("w.bin")};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  expect_refused(with({"--magic-prime", "89"}), 2, "--order magic-prime");
  expect_refused(with({"--order", "other"}), 2, "--order");
  expect_refused(with({"--batch", "1000000000"}), 1, "too large");
  expect_refused({"data", "windows", path("count"), "-o", path("w.bin")}, 2, "--steps");
  expect_refused(
      {"data", "windows", path("count"), "--steps", "2", "--context", "1000", "-o", path("w.bin")},
      1, "--context");
  EXPECT_FALSE(fs::exists(path("w.bin")));
  EXPECT_EQ(run(words).code, 0);
  expect_refused(words, 1, "--force");
  EXPECT_EQ(run(prepare({path("chat.jsonl")})).code, 0);
  expect_refused({"data", "windows", path("prepared"), "--steps", "2", "--context", "8", "-o",
                  path("masked.bin")},
                 1, "--no-mask");
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
