#include "formats/state_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/hash.h"
#include "formats/files_for_tests.h"
#include "formats/safetensors.h"

namespace rookery {
namespace {

SavedState small_state() {
  SavedState state;
  state.generation = "4";
  state.sizes = {{"layers", 1}, {"width", 3}};
  state.fingerprint = "0123456789abcdef3f80";
  state.tokens = 12345678901;
  state.tokenizer = "bytes";
  state.items = {{"blocks.0.att.a", {3}, {1, -2.5f, 1e-38f}},
                 {"blocks.0.att.s", {2, 1, 2}, {1, 2, 3, 4}},
                 {"blocks.0.att.p", {1}, {-1e38f}}};
  state.logits = {0.25f, 3};
  state.sampler = {std::numeric_limits<uint64_t>::max(), 77, "rwkv", {{3, 1.0 / 3}, {9, 2}}};
  state.chat = {"plain",
                "Caf\xc3\xa9",
                "B\"",
                {{"system", "be\nbrief", ""}, {"user", "hi", ""}, {"assistant", "ho", "hm"}}};
  return state;
}

void expect_equal(const SavedState& a, const SavedState& b) {
  EXPECT_EQ(a.generation, b.generation);
  EXPECT_EQ(a.sizes, b.sizes);
  EXPECT_EQ(a.fingerprint, b.fingerprint);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.tokenizer, b.tokenizer);
  ASSERT_EQ(a.items.size(), b.items.size());
  for (size_t i = 0; i < a.items.size(); ++i) {
    EXPECT_EQ(a.items[i].name, b.items[i].name);
    EXPECT_EQ(a.items[i].shape, b.items[i].shape);
    EXPECT_EQ(a.items[i].values, b.items[i].values);
  }
  EXPECT_EQ(a.logits, b.logits);
  ASSERT_EQ(a.sampler.has_value(), b.sampler.has_value());
  if (a.sampler) {
    EXPECT_EQ(a.sampler->seed, b.sampler->seed);
    EXPECT_EQ(a.sampler->random_position, b.sampler->random_position);
    EXPECT_EQ(a.sampler->penalty_mode, b.sampler->penalty_mode);
    EXPECT_EQ(a.sampler->penalties, b.sampler->penalties);
  }
  ASSERT_EQ(a.chat.has_value(), b.chat.has_value());
  if (!a.chat) return;
  EXPECT_EQ(a.chat->template_name, b.chat->template_name);
  EXPECT_EQ(a.chat->user, b.chat->user);
  EXPECT_EQ(a.chat->assistant, b.chat->assistant);
  ASSERT_EQ(a.chat->messages.size(), b.chat->messages.size());
  for (size_t i = 0; i < a.chat->messages.size(); ++i) {
    EXPECT_EQ(a.chat->messages[i].role, b.chat->messages[i].role);
    EXPECT_EQ(a.chat->messages[i].text, b.chat->messages[i].text);
    EXPECT_EQ(a.chat->messages[i].thought, b.chat->messages[i].thought);
  }
}

std::string error_of_state(const std::filesystem::path& path) {
  try {
    read_state_file(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_error(const std::filesystem::path& path, const std::string& words) {
  const std::string error = error_of_state(path);
  EXPECT_NE(error.find(words), std::string::npos) << error;
  EXPECT_NE(error.find(path.string()), std::string::npos) << error;
}

TEST(StateFile, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.state";
  write_state_file(path, small_state());
  expect_equal(read_state_file(path), small_state());
  SavedState bare = small_state();
  bare.logits.clear();
  bare.sampler.reset();
  bare.chat.reset();
  write_state_file(path, bare);
  expect_equal(read_state_file(path), bare);
}

// What the format says, read by nothing of ours but the container (safetensors_test.cc).
TEST(StateFile, TheFileIsWhatTheFormatSays) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.state";
  write_state_file(path, small_state());
  const TensorSource source = open_checkpoint(path);
  ASSERT_EQ(source.tensors.size(), 4u);
  struct Item {
    std::string name;
    Shape shape;
    std::vector<float> values;
  };
  for (const auto& [name, shape, values] :
       {Item{"blocks.0.att.a", {3}, {1, -2.5f, 1e-38f}},
        Item{"blocks.0.att.s", {2, 1, 2}, {1, 2, 3, 4}}, Item{"blocks.0.att.p", {1}, {-1e38f}},
        Item{"logits", {2}, {0.25f, 3}}}) {
    const StoredTensor* tensor = source.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(numbers_of<float>(*tensor), values) << name;
    EXPECT_EQ(tensor->shape, shape);
  }
  EXPECT_EQ(source.metadata.size(), 2u);
  EXPECT_EQ(source.metadata.at("checksum").size(), 16u);
  const nlohmann::json expected = {
      {"version", 2},
      {"generation", "4"},
      {"sizes", {{"layers", 1}, {"width", 3}}},
      {"fingerprint", "0123456789abcdef3f80"},
      {"tokens", 12345678901},
      {"tokenizer", "bytes"},
      {"sampler",
       {{"seed", std::numeric_limits<uint64_t>::max()},
        {"random_position", 77},
        {"penalty_mode", "rwkv"},
        {"penalties", {{3, 1.0 / 3}, {9, 2.0}}}}},
      {"chat",
       {{"template", "plain"},
        {"user", "Caf\xc3\xa9"},
        {"assistant", "B\""},
        {"messages",
         {{{"role", "system"}, {"text", "be\nbrief"}},
          {{"role", "user"}, {"text", "hi"}},
          {{"role", "assistant"}, {"text", "ho"}, {"thought", "hm"}}}}}}};
  nlohmann::json about = nlohmann::json::parse(source.metadata.at("rookery_state"));
  // A list of pairs of a text and a number, which the library would take for an object.
  EXPECT_EQ(about.at("sizes").dump(), R"([["layers",1],["width",3]])");
  about["sizes"] = expected.at("sizes");
  EXPECT_EQ(about, expected);
}

// A number in a part of the file that the checksum forgot would be read as it is.
TEST(StateFile, TheChecksumIsOfEverything) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.state";
  const auto checksum = [&](auto change) {
    SavedState state = small_state();
    change(state);
    write_state_file(path, state);
    return open_checkpoint(path).metadata.at("checksum");
  };
  const std::string before = checksum([](SavedState&) {});
  EXPECT_EQ(checksum([](SavedState&) {}), before);
  EXPECT_NE(checksum([](SavedState& s) { s.tokens = 1; }), before);
  EXPECT_NE(checksum([](SavedState& s) { s.items[0].values[2] = 2e-38f; }), before);
  EXPECT_NE(checksum([](SavedState& s) { s.items[1].values[0] = -1; }), before);
  EXPECT_NE(checksum([](SavedState& s) { s.logits[1] = 4; }), before);
  EXPECT_NE(checksum([](SavedState& s) { s.items[0].name = "blocks.0.att.c"; }), before);
  EXPECT_NE(checksum([](SavedState& s) { s.chat->messages[2].thought = "ha"; }), before);
}

TEST(StateFile, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  write_state_file(folder.path() / "whole", small_state());
  const std::string bytes = read_text_file(folder.path() / "whole");
  for (size_t length = 0; length < bytes.size(); ++length) {
    ASSERT_NE(error_of_state(save(folder, "part", bytes.substr(0, length))), "")
        << "the first " << length << " bytes";
  }
}

// A changed file is refused, or the change was to a byte that means nothing (a space of the
// padding).
TEST(StateFile, MutationsAreRefused) {
  const TemporaryFolder folder;
  write_state_file(folder.path() / "whole", small_state());
  const std::string bytes = read_text_file(folder.path() / "whole");
  std::mt19937 random(20);
  int refused = 0;
  constexpr int kCount = 10000;
  for (int i = 0; i < kCount; ++i) {
    std::string changed = bytes;
    for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      constexpr unsigned char kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '0', ' '};
      const uint32_t value = random();
      changed[random() % changed.size()] = static_cast<char>(
          value % 2 == 0 ? kEdges[(value >> 8) % std::size(kEdges)] : value >> 16);
    }
    const auto path = save(folder, "changed", changed);
    SCOPED_TRACE(i);
    try {
      expect_equal(read_state_file(path), small_state());
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
      ++refused;
    }
  }
  EXPECT_GT(refused, kCount * 9 / 10);
}

TEST(StateFile, RefusesWhatIsNotFinite) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.state";
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    SavedState state = small_state();
    state.items[0].values[1] = bad;
    EXPECT_THROW(write_state_file(path, state), Error);
    state = small_state();
    state.logits[1] = bad;
    EXPECT_THROW(write_state_file(path, state), Error);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

// Files whose checksum is right, but which write_state_file() would not write.
class Forged : public ::testing::Test {
 protected:
  std::filesystem::path forge(const std::string& about, const std::vector<StoredTensor>& tensors) {
    uint64_t hash = hash_bytes(about);
    for (const StoredTensor& tensor : tensors) {
      hash = hash_bytes(fmt::format("\n{}{}", tensor.name, tensor.shape.to_string()), hash);
      hash = hash_bytes(
          {static_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes())}, hash);
    }
    const auto path = folder_.path() / "forged";
    write_safetensors(path, tensors,
                      {{"rookery_state", about}, {"checksum", fmt::format("{:016x}", hash)}});
    return path;
  }
  static std::string about(const std::string& more = "", const std::string& tokens = "5") {
    return R"({"version":2,"generation":"4","sizes":[["width",2]],"fingerprint":"0","tokens":)" +
           tokens + R"(,"tokenizer":"")" + more + "}";
  }
  TemporaryFolder folder_;
  const std::vector<float> values_ = {1, 2};
  const std::vector<StoredTensor> one_ = {{"a", DType::kF32, {2}, values_.data()}};
};

TEST_F(Forged, IsReadIfWellFormed) {
  const SavedState state = read_state_file(forge(about(), one_));
  EXPECT_EQ(state.tokens, 5);
  EXPECT_EQ(state.items[0].values, values_);
}

TEST_F(Forged, IsRefusedIfNot) {
  for (
      const char* more :
      {R"(,"sampler":{})", R"(,"sampler":5)", R"(,"chat":[])", R"(,"chat":{"template":"x"})",
       R"(,"sampler":{"seed":1,"random_position":0,"penalty_mode":"","penalties":[[-1,1.0]]})",
       R"(,"sampler":{"seed":1,"random_position":0,"penalty_mode":"","penalties":[[[[[1]]]]]})",
       R"(,"chat":{"template":"x","user":"","assistant":"","messages":[{"role":"cat","text":""}]})",
       R"(,"chat":{"template":"x","user":"","assistant":"","messages":[{"role":"user"}]})"}) {
    expect_error(forge(about(more), one_), "is damaged");
  }
  expect_error(forge(about("", "-5"), one_), "is damaged");
  expect_error(forge(about("", "\"5\""), one_), "is damaged");
  expect_error(forge("{}", one_), "is damaged");
  expect_error(forge("[]", one_), "is damaged");
  expect_error(forge("nothing", one_), "is damaged");
  expect_error(forge(std::string(100000, '['), one_), "nested too deeply");
  for (const char* other : {"1", "3"}) {
    std::string text = about();
    text.replace(text.find("2"), 1, other);
    expect_error(forge(text, one_), fmt::format("has version {} of the state format, this program "
                                                "reads version 2: save the state again",
                                                other));
  }
  expect_error(forge(about(), {{"a", DType::kBF16, {2}, values_.data()}}), "expected f32");
  const float bad[] = {1, NAN};
  expect_error(forge(about(), {{"a", DType::kF32, {2}, bad}}), "expected finite numbers");
}

TEST(StateFile, OtherFilesAreToldSo) {
  const TemporaryFolder folder;
  const float one = 1;
  write_safetensors(folder.path() / "model",
                    std::vector<StoredTensor>{{"a", DType::kF32, {1}, &one}}, {});
  expect_error(folder.path() / "model", "is no saved state");
  EXPECT_NE(error_of_state(folder.path() / "absent"), "");
  EXPECT_NE(error_of_state(folder.path()), "");
}

}  // namespace
}  // namespace rookery
