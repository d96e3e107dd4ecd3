// `rookery eval` as its users meet it. Every score is computed again from what `rookery logits`
// prints.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "checking/files_for_tests.h"
#include "program_test.h"

namespace rookery {
namespace {

class Eval : public Cli {
 protected:
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  std::vector<Json> lines_of(const std::string& name) const {
    std::vector<Json> lines;
    std::ifstream file(path(name));
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  // log p of `ids` after token 0 and `context`, from the logits verb.
  double by_logits(const std::string& model, const std::vector<int>& context,
                   const std::vector<int>& ids) const {
    std::vector<int> all = {0};
    all.insert(all.end(), context.begin(), context.end());
    all.insert(all.end(), ids.begin(), ids.end());
    const Json out = json_of(
        {"logits", model, "--ids", fmt::format("{}", fmt::join(all, ",")), "--rows", "all"});
    double sum = 0;
    for (size_t i = context.size(); i + 1 < all.size(); ++i) {
      const std::vector<double> row = out["rows"][i]["logits"];
      double total = 0;
      for (const double z : row) total += std::exp(z);
      sum += row[all[i + 1]] - std::log(total);
    }
    return sum;
  }

  const std::string words_ =
      R"({"id": 0, "context": "In my palm is a clear stone", "continuation": " signs"})"
      "\n"
      R"({"id": 1, "context": "Give me a minute", "continuation": " Shane"})"
      "\n";
  const std::string choices_ =
      R"({"id": "p", "context": "", "choices": [" yes", " no", " perhaps"], "gold": 2})"
      "\n"
      R"({"id": "q", "context": "Question: why?\nAnswer:", "choices": [" A", " B"], "gold": 0})"
      "\n"
      R"({"contexts": ["Sarah so Sarah", "Sarah so Maria"], "continuation": " left.", "gold": 1})"
      "\n";
};

TEST_F(Eval, HelpOfEachMeasureBeginsWithAnExample) {
  for (const char* measure : {"perplexity", "lambada", "choices"}) {
    const Result result = run({"eval", measure, "--help"});
    EXPECT_EQ(result.code, 0);
    EXPECT_TRUE(result.out.starts_with("Example:\n  rookery eval " + std::string(measure)))
        << result.out;
  }
}

TEST_F(Eval, WrongUsage) {
  const std::string data = write("a.txt", "some text");
  expect_refused({"eval"}, 2, "subcommand is required\nSee rookery eval --help");
  expect_refused({"eval", "sing"}, 2, "no verb 'sing'");
  expect_refused({"eval", "perplexity"}, 2, "MODEL");
  expect_refused({"eval", "perplexity", "m"}, 2, "--data");
  expect_refused({"eval", "perplexity", "m", "--data", data, "--limit", "-1"}, 2, "--limit");
  expect_refused({"eval", "perplexity", "m", "--data", data, "--bins", "5,3"}, 2, "ascend");
  expect_refused({"eval", "perplexity", "m", "--data", data, "--bins", "0,3"}, 2, "position 0");
  expect_refused({"eval", "perplexity", "m", "--data", data, "--batch-tokens", "0"}, 2, "0");
  expect_refused({"eval", "perplexity", "m", "--data", data, "--no-reset", "--context", "8"}, 2,
                 "empty state");
  expect_refused({"eval", "lambada", "m", "--data", data, data}, 2, "");
}

TEST_F(Eval, HostileFiles) {
  const std::string model = make_model();
  const auto refused = [&](const char* measure, const std::string& name, const std::string& text,
                           const std::string& words) {
    expect_refused({"eval", measure, model, "--data", write(name, text)}, 1, words);
  };
  refused("choices", "empty.jsonl", "", "holds no items");
  refused("choices", "a.jsonl", words_, "a.jsonl:1: neither \"choices\" nor \"contexts\"");
  refused("choices", "b.jsonl", choices_ + "{\"context\": \"\xff\"}\n", "b.jsonl:4: no valid JSON");
  refused("lambada", "c.jsonl", words_ + "\n{}\n", "c.jsonl:4: there is no \"context\"");
  refused("lambada", "d.jsonl", "{\"context\": \"" + std::string(3 << 20, 'a') + "\"}",
          "d.jsonl:1: the line has more than");
  refused("lambada", "e.jsonl", "{\"context\": \"a\\u0000b\", \"continuation\": \"c\"}\n",
          "e.jsonl:1: the text has byte 0");
  refused("perplexity", "f.txt", "", "no text to predict");
  refused("perplexity", "g.txt", "<|endoftext|>\n<|endoftext|>\n", "no text to predict");
  refused("perplexity", "h.txt", std::string("a\0b", 3), "h.txt' holds a byte 0");
  refused("perplexity", "i.jsonl", "{\"text\": \"a\"}\n{\"text\": 5}\n", "i.jsonl:2: \"text\" is");
  expect_refused({"eval", "perplexity", model, "--data", path("absent")}, 1, "absent");
  expect_refused({"eval", "choices", model, "--data", folder_.string()}, 1, "is a folder");
  expect_refused({"eval", "perplexity", path("absent"), "--data", write("a.txt", "text")}, 1,
                 "found nothing there");
  // The last file is wrong: known before the first is scored.
  expect_refused({"eval", "choices", model, "--data", write("good.jsonl", choices_),
                  write("bad.jsonl", "{}\n")},
                 1, "bad.jsonl:1");
  // A vocabulary that is not bytes', and no tokenizer.
  expect_refused({"eval", "lambada", make_model("v.safetensors", {"--vocab", "300"}), "--data",
                  write("w.jsonl", words_)},
                 1, "no tokenizer");
}

TEST_F(Eval, LambadaAgreesWithLogits) {
  const std::string model = make_model();
  const Json out = json_of({"eval", "lambada", model, "--data", write("w.jsonl", words_), "--json",
                            "--per-item", path("items.jsonl")});
  EXPECT_EQ(out["task"], "lambada");
  EXPECT_EQ(out["model"], model);
  EXPECT_EQ(out["tokenizer"], "bytes");
  EXPECT_EQ(out["items"], 2);
  EXPECT_EQ(out["partial"], false);
  EXPECT_EQ(out["prompt"], "token 0, context | continuation");
  EXPECT_GT(out["tokens_per_second"], 0);
  const std::vector<Json> items = lines_of("items.jsonl");
  ASSERT_EQ(items.size(), 2u);
  double sum = 0;
  int64_t tokens = 0, right = 0;
  for (const Json& item : items) {
    const double expected = by_logits(model, item["context_ids"][0], item["continuation_ids"][0]);
    EXPECT_NEAR(item["log_probability"], expected, 1e-4);
    sum += expected;
    tokens += item["tokens"].get<int64_t>();
    right += item["greedy"].get<bool>() ? 1 : 0;
  }
  EXPECT_EQ(items[1]["continuation_ids"][0], (std::vector<int>{' ', 'S', 'h', 'a', 'n', 'e'}));
  EXPECT_EQ(items[1]["id"], "1");
  EXPECT_EQ(items[1]["line"], 2);
  EXPECT_NEAR(out["perplexity"].get<double>() / std::exp(-sum / 2), 1, 1e-4);
  EXPECT_NEAR(out["token_perplexity"].get<double>(), std::exp(-sum / static_cast<double>(tokens)),
              1e-2);
  EXPECT_EQ(out["accuracy"], static_cast<double>(right) / 2);

  const Result text = run({"eval", "lambada", model, "--data", path("w.jsonl")});
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("Accuracy:"), std::string::npos) << text.out;
}

TEST_F(Eval, ChoicesAgreeWithLogits) {
  const std::string model = make_model();
  const std::string data = write("c.jsonl", choices_);
  const Json out = json_of({"eval", "choices", model, "--data", data, data, "--json", "--per-item",
                            path("items.jsonl"), "--threads", "1"});
  ASSERT_EQ(out["tasks"].size(), 2u);
  const Json& task = out["tasks"][0];
  EXPECT_EQ(task["items"], 3);
  EXPECT_NEAR(task["chance"], (1.0 / 3 + 0.5 + 0.5) / 3, 1e-12);
  EXPECT_FALSE(task.contains("acc_norm"));  // one item's alternatives are contexts
  const std::vector<Json> items = lines_of("items.jsonl");
  ASSERT_EQ(items.size(), 6u);
  int64_t right = 0;
  for (size_t i = 0; i < 3; ++i) {
    const Json& item = items[i];
    std::vector<double> scores;
    const size_t contexts = item["context_ids"].size(), choices = item["continuation_ids"].size();
    for (size_t c = 0; c < std::max(contexts, choices); ++c) {
      scores.push_back(by_logits(model, item["context_ids"][std::min(c, contexts - 1)],
                                 item["continuation_ids"][std::min(c, choices - 1)]));
      EXPECT_NEAR(item["log_probabilities"][c], scores[c], 1e-4) << i << ' ' << c;
    }
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    EXPECT_EQ(item["prediction"], best);
    right += item["gold"] == best ? 1 : 0;
    EXPECT_EQ(items[i + 3]["log_probabilities"], item["log_probabilities"]);
  }
  EXPECT_EQ(items[2]["id"], "3");  // its line: the item has none
  EXPECT_NEAR(task["acc"], static_cast<double>(right) / 3, 1e-12);

  const Json one = json_of({"eval", "choices", model, "--data", data, "--limit", "1", "--json"});
  EXPECT_EQ(one["tasks"][0]["items"], 1);
  EXPECT_TRUE(one["tasks"][0]["acc_error"].is_null());
  EXPECT_TRUE(one["tasks"][0].contains("acc_norm"));
  expect_refused({"eval", "choices", model, "--data", data, "--no-start-token"}, 1,
                 "c.jsonl:1: an empty context");
}

TEST_F(Eval, PerplexityOfText) {
  const std::string model = make_model();
  const std::string text = "one two\n<|endoftext|>\nthree four five\n";
  const Json out = json_of({"eval", "perplexity", model, "--data", write("a.txt", text), "--json",
                            "--plot", path("loss.svg"), "--per-item", path("items.jsonl")});
  EXPECT_EQ(out["documents"], 2);
  EXPECT_EQ(out["bytes"], 8 + 16);
  EXPECT_EQ(out["tokens"], 8 + 16);
  EXPECT_EQ(out["words"], 5);
  EXPECT_EQ(out["error_over"], "documents");
  const auto ids = [](const std::string& bytes) {
    return std::vector<int>(bytes.begin(), bytes.end());
  };
  const double first = by_logits(model, {}, ids("one two\n")),
               second = by_logits(model, {}, ids("three four five\n"));
  EXPECT_NEAR(out["nats"], -first - second, 1e-3);
  EXPECT_NEAR(out["bits_per_byte"], -(first + second) / 24 / std::log(2), 1e-4);
  const std::vector<Json> items = lines_of("items.jsonl");
  ASSERT_EQ(items.size(), 2u);
  EXPECT_NEAR(items[1]["nats"], -second, 1e-3);
  EXPECT_EQ(out["positions"][0]["tokens"], 2);
  EXPECT_TRUE(read_text_file(path("loss.svg")).starts_with("<svg"));

  // The same documents as .jsonl, and in two files.
  write("a.jsonl", "{\"text\": \"one two\\n\"}\n{\"text\": \"three four five\\n\"}\n");
  EXPECT_EQ(json_of({"eval", "perplexity", model, "--data", path("a.jsonl"), "--json"})["nats"],
            out["nats"]);
  write("b.txt", "one two\n");
  write("c.txt", "three four five\n");
  EXPECT_EQ(json_of({"eval", "perplexity", model, "--data", path("b.txt"), path("c.txt"),
                     "--json"})["nats"],
            out["nats"]);
  // Without reset the second document knows the first.
  std::vector<int> context = ids("one two\n");
  context.push_back(0);
  EXPECT_NEAR(json_of({"eval", "perplexity", model, "--data", path("a.txt"), "--no-reset",
                       "--json"})["nats"],
              -first - by_logits(model, context, ids("three four five\n")), 1e-3);
  EXPECT_EQ(json_of({"eval", "perplexity", model, "--data", path("a.txt"), "--max-tokens", "5",
                     "--json"})["tokens"],
            5);
  EXPECT_EQ(json_of({"eval", "perplexity", model, "--data", path("a.txt"), "--limit", "1",
                     "--json"})["documents"],
            1);
  EXPECT_EQ(json_of({"eval", "perplexity", model, "--data", path("a.txt"), path("a.txt"), "--limit",
                     "1", "--json"})["documents"],
            2);
  const Result shown =
      run({"eval", "perplexity", model, "--data", path("a.txt"), "--bins", "1,10"});
  EXPECT_NE(shown.out.find("10-16"), std::string::npos) << shown.out;
}

TEST_F(Eval, UniformModelIsLogOfTheVocabulary) {
  const std::string model = path("uniform.safetensors");
  ASSERT_EQ(run({"init", "--layers", "1", "--width", "32", "--scheme", "paper", "-o", model}).code,
            0);
  const std::string data = write("a.txt", "some text\n");
  const Json out = json_of({"eval", "perplexity", model, "--data", data, "--json"});
  EXPECT_NEAR(out["nats_per_token"], std::log(256), 1e-12);
  EXPECT_NEAR(out["bits_per_byte"], 8, 1e-12);
  const Json choices = json_of(
      {"eval", "choices", model, "--data",
       write("c.jsonl", R"({"context": "a", "choices": [" A", " B"], "gold": 1})"), "--json"});
  EXPECT_EQ(choices["tasks"][0]["ties"], 1);
  EXPECT_EQ(choices["tasks"][0]["acc"], 0);
}

TEST_F(Eval, InterruptedGivesWhatWasDone) {
  const std::string model = make_model();
  std::string items;
  for (int i = 0; i < 40000; ++i) items += words_;
  write("w.jsonl", items);
  const int in = open_file("w.jsonl", O_RDONLY), out = create("stdout"), err = create("stderr");
  const pid_t child = start({"eval", "lambada", model, "--data", path("w.jsonl"), "--json",
                             "--per-item", path("items.jsonl"), "--threads", "1"},
                            in, out, err);
  for (const int descriptor : {in, out, err}) ::close(descriptor);
  // The numbers of the first items stand in the file beside the one to come.
  const auto has_begun = [&] {
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == ".partial" && entry.file_size() > 0) return true;
    }
    return false;
  };
  for (int i = 0; i < 4000 && !has_begun(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(child, SIGINT);
  EXPECT_EQ(wait_for(child), 1);
  const std::string message = read_text_file(path("stderr"));
  EXPECT_NE(message.find("interrupted"), std::string::npos) << message;
  const Json json = Json::parse(read_text_file(path("stdout")));
  EXPECT_EQ(json["partial"], true);
  EXPECT_LT(json["items"], 80000);
  EXPECT_EQ(lines_of("items.jsonl").size(), json["items"].get<size_t>());
}

TEST_F(Eval, RealSet) {
  const fs::path data = shared_folder() / "data" / "eval" / "copa_validation.jsonl";
  if (!fs::exists(data)) GTEST_SKIP() << "no " << data;
  const std::string model = make_model();
  const Json out = json_of({"eval", "choices", model, "--data", data.string(), "--limit", "20",
                            "--per-item", path("items.jsonl"), "--json"});
  EXPECT_EQ(out["tasks"][0]["items"], 20);
  EXPECT_EQ(out["tasks"][0]["chance"], 0.5);
  const Json item = lines_of("items.jsonl").at(19);
  for (const int choice : {0, 1}) {
    EXPECT_NEAR(item["log_probabilities"][choice],
                by_logits(model, item["context_ids"][0], item["continuation_ids"][choice]), 1e-3);
  }
}

}  // namespace
}  // namespace rookery
