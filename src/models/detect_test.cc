#include "models/detect.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/error.h"

namespace rookery {
namespace {

using Tensors = std::vector<TensorInfo>;

// What all generations have, for two layers of 128 channels, and `own` in the first.
Tensors model(std::initializer_list<TensorInfo> own) {
  Tensors tensors = {
      {"emb.weight", {256, 128}}, {"blocks.0.ln0.weight", {128}}, {"ln_out.weight", {128}}};
  for (const char* block : {"blocks.0.", "blocks.1."}) {
    for (const char* name :
         {"att.key.weight", "att.value.weight", "att.receptance.weight", "att.output.weight"}) {
      tensors.push_back({std::string(block) + name, {128, 128}});
    }
  }
  for (const TensorInfo& tensor : own) tensors.push_back({"blocks.0." + tensor.name, tensor.shape});
  tensors.push_back({"head.weight", {256, 128}});
  return tensors;
}

const TensorInfo kNorm = {"att.ln_x.weight", {128}}, kGate = {"att.gate.weight", {128, 128}};
const TensorInfo kMixK = {"att.time_mix_k", {1, 1, 128}};

Tensors generation4() {
  return model({{"att.time_decay", {128}}, {"att.time_first", {128}}, kMixK});
}
Tensors generation6() {
  return model({{"att.time_maa_x", {1, 1, 128}}, {"att.time_decay", {1, 1, 128}}, kNorm, kGate});
}
Tensors generation7() { return model({{"att.r_k", {2, 64}}, {"att.k_k", {1, 1, 128}}, kNorm}); }

// In any order of the names.
void expect_generation(Tensors tensors, const std::string& expected) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  EXPECT_EQ(detect_generation(tensors), expected);
  std::reverse(tensors.begin(), tensors.end());
  EXPECT_EQ(detect_generation(tensors), expected);
}

void expect_refusal(const Tensors& tensors, const std::string& why) {
  try {
    ADD_FAILURE() << "expected an error with " << why << ", got " << detect_generation(tensors);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

Tensors with(Tensors tensors, const std::string& name) {
  tensors.push_back({name, {128}});
  return tensors;
}

TEST(DetectGeneration, KnowsEveryGeneration) {
  expect_generation(generation4(), "4");
  expect_generation(model({{"att.time_decay", {2}}, {"att.time_first", {2}}, kMixK, kNorm}), "5.0");
  for (const Shape& decay : {Shape{2}, Shape{2, 1}, Shape{1, 1}, Shape{2, 1, 1}}) {
    expect_generation(model({{"att.time_decay", decay}, kMixK, kNorm, kGate}), "5.1");
  }
  for (const Shape& decay : {Shape{2, 64}, Shape{1, 128}, Shape{2, 64, 1}}) {
    expect_generation(
        model({{"att.time_decay", decay}, {"att.time_faaaa", {2, 64}}, kMixK, kNorm, kGate}),
        "5.2");
  }
  expect_generation(generation6(), "6");
  expect_generation(generation7(), "7");
}

TEST(DetectGeneration, RefusesVariantsByName) {
  expect_refusal(with(generation7(), "blocks.1.ffn.s_emb.weight"), "generation 7a");
  expect_refusal(with(with(generation7(), "blocks.1.ffn.s_emb.weight"), "blocks.1.qkv.qq.weight"),
                 "generation 7b");
  expect_refusal(with(generation6(), "blocks.0.att.gate_w1"), "generation 6a");
  expect_refusal(with(generation6(), "blocks.0.att.time_maa_rkvw_w1"), "generation 6b or 6c");
  for (const char* name : {"blocks.1.tiny_ln.weight", "blocks.1.tiny_q.weight", "head_q.weight",
                           "head_k.weight", "blocks.0.pos_emb_x", "blocks.0.pos_emb_y",
                           "blocks.0.ffnPre.key.weight", "blocks.0.ffn.aa.weight"}) {
    expect_refusal(with(generation4(), name), "version 4 research variant");
  }
}

TEST(DetectGeneration, RefusesWhatWasMadeFromAModel) {
  expect_refusal(with(generation4(), "blocks.0.att.key.weight_mx"), "rwkv pip package");
  expect_refusal(with(generation4(), "_strategy"), "rwkv pip package");
  expect_refusal(model({{"att.time_mix_x", {128}}, {"att.time_decay", {128}}, kNorm, kGate}),
                 "web-rwkv");
  expect_refusal({{"blocks.0.att.key.lora_A", {8, 128}}, {"blocks.0.att.key.lora_B", {128, 8}}},
                 "an adapter");
  // Small tensors come along with an adapter.
  expect_refusal({{"blocks.0.att.key.lora_A", {8, 128}},
                  {"blocks.0.att.r_k", {2, 64}},
                  {"blocks.0.att.k_k", {128}}},
                 "an adapter");
  expect_refusal({{"blocks.0.att.time_state", {2, 64, 64}}}, "only tuned states");
  expect_refusal({{"rwkv.blocks.0.attention.time_decay", {128}}}, "Hugging Face");
  expect_refusal({{"model.layers.0.attn.r_k", {2, 64}}}, "Hugging Face");
}

TEST(DetectGeneration, RefusesOtherModels) {
  expect_refusal({}, "the 0 tensors are no RWKV model");
  expect_refusal({{"transformer.h.0.attn.c_attn.weight", {3, 4}}},
                 "got transformer.h.0.attn.c_attn.weight");
  expect_refusal(model({}), "no RWKV model");
  expect_refusal(model({{"att.r_k", {2, 64}}}), "no RWKV model");
  // A gate without a decay: half a model.
  expect_refusal(model({kGate, kNorm}), "no RWKV model");
}

}  // namespace
}  // namespace rookery
