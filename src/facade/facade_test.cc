// The facade gives what the library gives, and its errors arrive as Error.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "checking/files_for_tests.h"
#include "evaluation/perplexity.h"
#include "generation/generator.h"
#include "generation/sampling.h"
#include "inference/session.h"
#include "rookery/rookery.hpp"
#include "tokenizers/bytes.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

class Facade : public ::testing::Test {
 protected:
  Facade() { save_model(path("model.safetensors"), model_, RunState{}); }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  LanguageModel load(LoadOptions options = {.device = "cpu", .threads = 2}) const {
    options.deterministic = true;
    return LanguageModel::load(path("model.safetensors"), options);
  }
  template <class F>
  static std::string error_of(const F& f) {
    try {
      f();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
  ThreadPool pool_{2};
  ByteTokenizer tokenizer_;
  Model model_ = Model::initialised(make_config("4", 2, 16, 256), {.scheme = "random"}, pool_);
};

TEST_F(Facade, Info) {
  const ModelInfo info = load().info();
  EXPECT_EQ(info.file, path("model.safetensors"));
  EXPECT_EQ(info.generation, "4");
  EXPECT_EQ(info.layers, 2);
  EXPECT_EQ(info.width, 16);
  EXPECT_EQ(info.vocabulary, 256);
  EXPECT_EQ(info.parameters, model_.parameter_count());
  EXPECT_EQ(info.tokenizer, "bytes");
  EXPECT_NE(info.device, "");
  // A folder serves, too.
  EXPECT_EQ(LanguageModel::load(folder_.path()).info().file, path("model.safetensors"));
}

TEST_F(Facade, Tokens) {
  const LanguageModel model = load();
  EXPECT_EQ(model.encode("ab"), (std::vector<int32_t>{'a', 'b'}));
  EXPECT_EQ(model.decode(std::vector<int32_t>{'a', 0xc3}), "a\xc3");
}

TEST_F(Facade, Logits) {
  const std::vector<int32_t> ids = {'a', 'b', 'c'};
  Session session(model_, pool_, true);
  const auto expected = session.feed(ids);
  EXPECT_EQ(load().logits(ids), std::vector<float>(expected.begin(), expected.end()));
  EXPECT_NE(error_of([&] { load().logits({}); }).find("at least one token"), std::string::npos);
}

TEST_F(Facade, GeneratesWhatTheLibraryGenerates) {
  const std::vector<int32_t> prompt = tokenizer_.encode("hello");
  SamplingChoices choices{.top_p = 0.9, .presence = 0.5, .seed = 5};
  choices.options.temperature = 0.7;
  choices.options.banned = {'x'};
  Sampler sampler(sampler_options(choices, kTextSampling, model_.config(), &tokenizer_));
  Generator generator(sampler, &tokenizer_, {.most_tokens = 40, .stops = {"q"}});
  Session session(model_, pool_, true);
  std::string expected;
  const Generated generated = generate(
      session, generator, prompt, {.piece = [&](const Piece& piece) { expected += piece.text; }});
  expected += generated.rest;

  std::string shown;
  const TextOptions options{
      .most_tokens = 40,
      .stops = {"q"},
      .sampling = {.temperature = 0.7, .top_p = 0.9, .presence = 0.5, .banned = {'x'}, .seed = 5}};
  const Completion completion = load().generate("hello", options, [&](std::string_view text) {
    shown += text;
    return true;
  });
  EXPECT_EQ(completion.text, expected);
  EXPECT_EQ(shown, expected);
  EXPECT_EQ(completion.reason, name_of(generated.reason));
  EXPECT_EQ(completion.tokens, generated.tokens);
  EXPECT_EQ(completion.prompt_tokens, 5);
  EXPECT_EQ(completion.seed, 5u);
}

TEST_F(Facade, EveryOptionOfTheSamplerArrives) {
  const LanguageModel model = load();
  const auto text = [&](Sampling sampling) {
    sampling.seed = 1;
    sampling.banned.push_back(0);
    return model.generate("a", {.most_tokens = 60, .sampling = sampling}).text;
  };
  const std::string plain = text({});
  EXPECT_EQ(text({}), plain);
  EXPECT_NE(text({.temperature = 0.01}), plain);
  EXPECT_NE(text({.top_p = 0.01}), plain);
  EXPECT_NE(text({.min_p = 0.9}), plain);
  EXPECT_NE(text({.typical = 0.01}), plain);
  EXPECT_NE(text({.top_k = 1}), plain);
  EXPECT_NE(text({.presence = 9}), plain);
  EXPECT_NE(text({.frequency = 9}), plain);
  EXPECT_NE(text({.presence = 1, .penalty_decay = 0.1, .penalty_mode = "decayed"}),
            text({.presence = 1, .penalty_decay = 0.9, .penalty_mode = "decayed"}));
  EXPECT_NE(text({.presence = 1, .penalty_decay = 0.1, .penalty_mode = "decayed"}),
            text({.presence = 1, .penalty_decay = 0.1, .penalty_mode = "openai"}));
  EXPECT_NE(text({.temperature = 3, .top_p = 0.5, .temperature_order = "first"}),
            text({.temperature = 3, .top_p = 0.5}));
  EXPECT_EQ(text({.logit_bias = {{'z', 1e6f}}}), std::string(60, 'z'));
}

TEST_F(Facade, TheCallerEndsAText) {
  int pieces = 0;
  const Completion completion = load().generate("a", {.sampling = {.logit_bias = {{'z', 1e6f}}}},
                                                [&](std::string_view) { return ++pieces < 3; });
  EXPECT_EQ(completion.text, "zzz");
  EXPECT_EQ(completion.reason, "interrupted");
  EXPECT_EQ(pieces, 3);
}

TEST_F(Facade, AnEmptyPromptIsTheStartOfADocument) {
  const LanguageModel model = load();
  const Completion completion = model.generate("", {.most_tokens = 1, .sampling = {.top_k = 1}});
  EXPECT_EQ(completion.prompt_tokens, 1);
  const std::vector<float> logits = model.logits(std::vector<int32_t>{0});
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  EXPECT_EQ(completion.tokens, best == 0 ? 0 : 1);
  if (best > 0 && best < 128) {
    EXPECT_EQ(completion.text, std::string(1, static_cast<char>(best)));
  }
}

TEST_F(Facade, Measures) {
  const LanguageModel model = load();
  const std::string text = "It is a truth universally acknowledged";
  const double nats = -model.log_likelihood("", text);
  const Evaluation evaluation = model.evaluate(text);
  EXPECT_EQ(evaluation.documents, 1);
  EXPECT_EQ(evaluation.tokens, static_cast<int64_t>(text.size()));
  EXPECT_EQ(evaluation.bytes, static_cast<int64_t>(text.size()));
  EXPECT_NEAR(evaluation.nats_per_token * static_cast<double>(text.size()), nats, 1e-6 * nats);
  EXPECT_NEAR(evaluation.bits_per_byte, evaluation.nats_per_token / std::log(2.0), 1e-9);
  EXPECT_NEAR(evaluation.token_perplexity, std::exp(evaluation.nats_per_token), 1e-6);
  // What a context says is not asked.
  const double whole = model.log_likelihood("", "ab"), first = model.log_likelihood("", "a");
  EXPECT_NEAR(model.log_likelihood("a", "b"), whole - first, 1e-5);
  EXPECT_NE(error_of([&] { model.evaluate(std::string_view()); }).find("no text"),
            std::string::npos);
}

TEST_F(Facade, MeasuresFiles) {
  const LanguageModel model = load();
  const auto plain = save(folder_, "a.txt", "one\n<|endoftext|>\ntwo");
  const auto lines = save(folder_, "b.jsonl", "{\"text\": \"three\"}\n");
  const std::vector<std::filesystem::path> files = {plain, lines};
  const Evaluation evaluation = model.evaluate_files(files);
  EXPECT_EQ(evaluation.documents, 3);
  const double nats = -(model.log_likelihood("", "one\n") + model.log_likelihood("", "two") +
                        model.log_likelihood("", "three"));
  EXPECT_NEAR(evaluation.nats_per_token * static_cast<double>(evaluation.tokens), nats, 1e-5);
  EXPECT_FALSE(evaluation.partial);
  // Told of progress, and ended by it.
  int64_t bytes = 0, total = 0;
  model.evaluate_files(files, [&](int64_t done, int64_t all) {
    bytes = done;
    total = all;
    return true;
  });
  EXPECT_GT(bytes, 0);
  EXPECT_EQ(total, static_cast<int64_t>(std::filesystem::file_size(plain) +
                                        std::filesystem::file_size(lines)));
  const auto long_text = save(folder_, "c.txt", std::string(9000, 'x'));
  const Evaluation part = model.evaluate_files(std::vector<std::filesystem::path>{long_text},
                                               [](int64_t, int64_t) { return false; });
  EXPECT_TRUE(part.partial);
  EXPECT_LT(part.tokens, 9000);
  EXPECT_NE(error_of([&] {
              model.evaluate_files(std::vector<std::filesystem::path>{path("absent")});
            }).find("absent"),
            std::string::npos);
}

TEST_F(Facade, Converses) {
  const LanguageModel model = load();
  Chat chat(model, {.system = "Be brief.", .most_tokens = 20, .sampling = {.seed = 3}});
  std::string shown;
  const Reply first = chat.ask("Who are you?", [&](std::string_view text) {
    shown += text;
    return true;
  });
  EXPECT_TRUE(first.kept);
  EXPECT_NE(first.reason, "");
  EXPECT_EQ(shown.substr(0, shown.find_last_not_of(" \n") + 1), first.text);
  const std::vector<Message> messages = chat.messages();
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[0].text, "Be brief.");
  EXPECT_EQ(messages[1].text, "Who are you?");
  EXPECT_EQ(messages[2].text, first.text);

  // Saved, gone on with, and undone: the same from there.
  const int64_t tokens = chat.tokens();
  chat.save(path("chat.state"));
  const Reply second = chat.ask("And then?");
  EXPECT_GT(chat.tokens(), tokens);
  EXPECT_EQ(chat.undo(), "And then?");
  EXPECT_EQ(chat.tokens(), tokens);
  EXPECT_EQ(chat.ask("And then?").text, second.text);
  Chat other(model, {.most_tokens = 20});
  other.load(path("chat.state"));
  EXPECT_EQ(other.tokens(), tokens);
  EXPECT_EQ(other.messages().size(), 3u);
  EXPECT_EQ(other.ask("And then?").text, second.text);
  // With a seed of its own it keeps that.
  Chat seeded(model, {.most_tokens = 20, .sampling = {.seed = 4}});
  seeded.load(path("chat.state"));
  EXPECT_NE(seeded.ask("And then?").text, second.text);

  EXPECT_NE(other.retry().text, second.text);
  other.reset("Be long.");
  EXPECT_EQ(other.messages().size(), 1u);
  other.reset();
  EXPECT_TRUE(other.messages().empty());
  EXPECT_EQ(other.tokens(), 0);
}

TEST_F(Facade, AConversationOutlivesTheModelItWasMadeWith) {
  auto model = std::make_unique<LanguageModel>(load());
  Chat chat(*model, {.most_tokens = 5});
  model.reset();
  EXPECT_TRUE(chat.ask("Still there?").kept);
}

TEST_F(Facade, AnAnswerIsInterrupted) {
  const LanguageModel model = load();
  Chat chat(model, {.sampling = {.logit_bias = {{'z', 1e6f}}}});
  const Reply reply = chat.ask("hi", [](std::string_view) { return false; });
  EXPECT_EQ(reply.reason, "interrupted");
  EXPECT_TRUE(reply.kept);
  EXPECT_EQ(reply.text, "z");
}

TEST_F(Facade, Errors) {
  const auto refused = [&](const LoadOptions& options) { return error_of([&] { load(options); }); };
  EXPECT_NE(error_of([&] { LanguageModel::load(path("absent")); }).find("absent"),
            std::string::npos);
  EXPECT_NE(refused({.device = "tpu"}).find("expected auto, cpu or cuda"), std::string::npos);
  EXPECT_NE(refused({.device = "cpu", .dtype = "f64"}).find("expected as-stored"),
            std::string::npos);
  EXPECT_NE(refused({.device = "cpu", .tokenizer = path("absent")}).find("absent"),
            std::string::npos);
  EXPECT_NE(refused({.device = "cpu", .threads = -1}).find("threads"), std::string::npos);
  const LanguageModel model = load();
  EXPECT_THROW(model.generate("a", {.sampling = {.top_p = 2}}), Error);
  EXPECT_THROW(model.generate("a", {.sampling = {.banned = {256}}}), Error);
  EXPECT_THROW(model.generate("a", {.sampling = {.penalty_mode = "none"}}), Error);
  EXPECT_THROW(model.generate("a", {.stops = {""}}), Error);
  EXPECT_THROW(Chat(model, {.chat_template = "alpaca"}), Error);
  EXPECT_THROW(Chat(model, {.chat_template = "world", .user = "Ada"}), Error);
  EXPECT_THROW(Chat(model, {.think = "on"}), Error);
  EXPECT_THROW(Chat(model).ask(" "), Error);
  EXPECT_THROW(Chat(model).undo(), Error);
}

TEST_F(Facade, AModelWithoutATokenizerServesIds) {
  const Model odd = Model::initialised(make_config("4", 1, 16, 300), {.scheme = "random"}, pool_);
  RunState run;
  run.tokenizer_definition = "";
  save_model(path("odd.safetensors"), odd, run);
  const LanguageModel model = LanguageModel::load(path("odd.safetensors"), {.device = "cpu"});
  EXPECT_EQ(model.info().tokenizer, "");
  EXPECT_EQ(model.logits(std::vector<int32_t>{299}).size(), 300u);
  const std::string error = error_of([&] { model.generate("a"); });
  EXPECT_NE(error.find("no tokenizer for '" + path("odd.safetensors")), std::string::npos) << error;
  EXPECT_NE(error.find("about 300 ids"), std::string::npos) << error;
}

}  // namespace
}  // namespace rookery
