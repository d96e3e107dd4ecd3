#include "models/detect.h"

#include <algorithm>
#include <string_view>

#include "core/error.h"

namespace rookery {
namespace {

// "att.key.weight" of "blocks.3.att.key.weight"; empty for tensors outside the blocks.
std::string_view name_in_block(std::string_view name) {
  constexpr std::string_view kBlocks = "blocks.";
  if (!name.starts_with(kBlocks)) return {};
  const size_t dot = name.find('.', kBlocks.size());
  return dot == std::string_view::npos ? std::string_view() : name.substr(dot + 1);
}

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(),
                     [&](std::string_view start) { return name.starts_with(start); });
}

// What the names say, each for any layer.
struct Flags {
  bool decay = false, decay_per_channel = false, norm = false, gate = false;  // generations 4 and 5
  bool lerp = false;                                                          // 6
  bool r_k = false, k_k = false;                                              // 7
  bool deep_embedding = false, deep_attention = false;                        // 7a, 7b
  bool low_rank_gate = false, fused_lerp = false;                             // 6a, 6b/6c
  bool research = false;                                                      // on top of 4
  bool pip = false, web = false, adapter = false, state = false;              // made from a model
  bool hugging_face = false;
  bool embedding = false;
};

Flags collect(std::span<const TensorInfo> tensors) {
  Flags flags;
  for (const TensorInfo& tensor : tensors) {
    const std::string_view name = tensor.name, local = name_in_block(name);
    const Shape& shape = tensor.shape;
    flags.decay |= local == "att.time_decay";
    flags.decay_per_channel |= local == "att.time_decay" && shape.rank() >= 2 && shape[1] > 1;
    flags.norm |= local == "att.ln_x.weight";
    flags.gate |= local == "att.gate.weight";
    flags.lerp |= local == "att.time_maa_x" || local == "att.time_maa_w1";
    flags.r_k |= local == "att.r_k";
    flags.k_k |= local == "att.k_k";
    flags.deep_embedding |= local.starts_with("ffn.s_emb");
    flags.deep_attention |= local.starts_with("qkv.");
    flags.low_rank_gate |= local == "att.gate_w1";
    flags.fused_lerp |= local == "att.time_maa_rkvw_w1";
    flags.research |= starts_with_any(local, {"tiny_", "pos_emb_", "ffnPre.", "ffn.aa."}) ||
                      starts_with_any(name, {"head_q", "head_k"});
    // int8 matrices and their scales, and the marks of the converter
    flags.pip |= ends_with_any(name, {"_mx", "_rx", "_my", "_ry"}) ||
                 starts_with_any(name, {"_strategy", "_version", "_rescale_layer"});
    flags.web |= local == "att.time_mix_x" || local == "att.time_mix_w1";
    flags.adapter |=
        ends_with_any(name, {".lora_A", ".lora_B", ".lora.0", ".lora.1", ".disha", ".bone"});
    flags.state |= local == "att.time_state";
    flags.embedding |= name == "emb.weight";
    flags.hugging_face |= starts_with_any(name, {"rwkv.", "model.layers.", "model.embeddings."});
  }
  return flags;
}

// Throws for what would otherwise pass as one of the generations.
void refuse_variants(const Flags& flags) {
  constexpr std::string_view kAdvice =
      "expected a plain model of generation 4, 5, 6 or 7; choose such a checkpoint";
  check(!flags.pip) || fail(
                           "the tensors were converted by the rwkv pip package, which changes the "
                           "weights: use the file that the conversion was made from");
  check(!flags.web) || fail(
                           "the tensors have the names of a web-rwkv conversion (time_mix_x): use "
                           "the .pth file that it was made from");
  check(!flags.deep_attention) ||
      fail("the model is of generation 7b (tensors qkv.*): {}", kAdvice);
  check(!flags.deep_embedding) ||
      fail("the model is of generation 7a (tensors ffn.s_emb*): {}", kAdvice);
  check(!flags.low_rank_gate) ||
      fail("the model is of generation 6a (tensors att.gate_w1): {}", kAdvice);
  check(!flags.fused_lerp) ||
      fail("the model is of generation 6b or 6c (tensors att.time_maa_rkvw_w1): {}", kAdvice);
  check(!flags.research) || fail(
                                "the model is a version 4 research variant (tiny attention, head_q "
                                "and head_k, pos_emb, ffnPre or ffn.aa): {}",
                                kAdvice);
}

}  // namespace

std::string detect_generation(std::span<const TensorInfo> tensors) {
  const Flags flags = collect(tensors);
  refuse_variants(flags);
  // An adapter may bring whole small tensors along, r_k among them.
  check(!flags.adapter || flags.embedding) ||
      fail(
          "the file holds an adapter (lora or bone matrices), not a model: give the base model, "
          "and this file as its adapter");
  if (flags.r_k && flags.k_k) return "7";
  if (flags.lerp) return "6";
  if (flags.decay && flags.gate) return flags.decay_per_channel ? "5.2" : "5.1";
  if (flags.decay && flags.norm) return "5.0";
  if (flags.decay) return "4";

  check(!flags.state) || fail(
                             "the file holds only tuned states (att.time_state), not a model: give "
                             "the base model, and this file as its state");
  check(!flags.hugging_face) ||
      fail(
          "the tensors have Hugging Face names: expected names such as blocks.0.att.key.weight; "
          "give the .pth file of the same model");
  fail(
      "the {} tensors are no RWKV model: expected names such as blocks.0.att.time_decay or "
      "blocks.0.att.r_k{}",
      tensors.size(), tensors.empty() ? "" : fmt::format(", got {}", tensors[0].name));
}

}  // namespace rookery
