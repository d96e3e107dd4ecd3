// RWKV-4, forward only, in the paper's order (arXiv 2305.13048, section 3). The
// numbers in the comments are its equations; docs/equations.md has the names.

#include "models/rwkv4.h"

#include "ops/dropout/dropout.h"
#include "ops/embedding/embedding.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/log_decay/log_decay.h"
#include "ops/sigmoid_gate/sigmoid_gate.h"
#include "ops/squared_relu/squared_relu.h"
#include "ops/token_shift/token_shift.h"
#include "ops/wkv4/wkv4.h"

namespace rookery {
namespace {

// The parameters in checkpoint order: two of the embedding's norm in layer 0,
// then these of every layer.
std::vector<ParameterSpec> parameters(const ModelConfig& m) {
  const int64_t C = m.width, A = m.attention_width, F = m.ffn_width, V = m.vocabulary;
  const OptimizerGroup vector{1, false}, matrix{1, true}, decay{2, false}, bonus{3, false};
  // W_o and the channel mixing's W_v of the paper: standard deviation sqrt(d /
  // s).
  const auto paper_gain =
      static_cast<float>(std::sqrt(static_cast<double>(F) / static_cast<double>(C)));
  constexpr Init zero = Init::kZero;
  std::vector<ParameterSpec> table;
  const auto norm = [&](const std::string& name, std::string_view part) {
    table.push_back({name + ".weight", {C}, Init::kOne, Init::kOne, 1, vector, part});
    table.push_back({name + ".bias", {C}, Init::kZero, Init::kZero, 1, vector, part});
  };
  table.push_back(
      {"emb.weight", {V, C}, Init::kEmbedding, Init::kEmbedding, 1, matrix, "embedding"});
  for (int64_t l = 0; l < m.layers; ++l) {
    const std::string block = fmt::format("blocks.{}.", l);
    if (l == 0) norm(block + "ln0", "embedding");
    norm(block + "ln1", "time mixing");
    norm(block + "ln2", "channel mixing");
    const auto add = [&](const char* name, const Shape& shape, Init released, Init paper,
                         float gain, const OptimizerGroup& group, std::string_view part) {
      table.push_back({block + name, shape, released, paper, gain, group, part});
    };
    add("att.time_decay", {A}, Init::kDecaySpeed, Init::kDecaySpeed, 1, decay, "time mixing");
    add("att.time_first", {A}, Init::kBonus, Init::kBonus, 1, bonus, "time mixing");
    add("att.time_mix_k", {1, 1, C}, Init::kMixKey, Init::kMixKey, 1, vector, "time mixing");
    add("att.time_mix_v", {1, 1, C}, Init::kMixValue, Init::kMixValue, 1, vector, "time mixing");
    add("att.time_mix_r", {1, 1, C}, Init::kMixReceptance, Init::kMixReceptance, 1, vector,
        "time mixing");
    add("att.key.weight", {A, C}, zero, zero, 1, matrix, "time mixing");
    add("att.value.weight", {A, C}, Init::kOrthogonal, zero, 1, matrix, "time mixing");
    add("att.receptance.weight", {A, C}, zero, zero, 1, matrix, "time mixing");
    add("att.output.weight", {C, A}, zero, Init::kNormal, paper_gain, matrix, "time mixing");
    add("ffn.time_mix_k", {1, 1, C}, Init::kMixKey, Init::kMixKey, 1, vector, "channel mixing");
    add("ffn.time_mix_r", {1, 1, C}, Init::kMixKey, Init::kMixKey, 1, vector, "channel mixing");
    add("ffn.key.weight", {F, C}, Init::kOrthogonal, zero, 1, matrix, "channel mixing");
    add("ffn.receptance.weight", {C, C}, zero, zero, 1, matrix, "channel mixing");
    add("ffn.value.weight", {C, F}, zero, Init::kNormal, paper_gain, matrix, "channel mixing");
  }
  norm("ln_out", "head");
  table.push_back({"head.weight", {V, C}, Init::kOrthogonal, zero, 0.5f, matrix, "head"});
  return table;
}

// Per layer, in this order: 5 C numbers (the paper's Appendix D).
enum StateIndex : int64_t { kAttLast, kA, kB, kP, kFfnLast, kStatesPerLayer };

StateLayout state_layout(const ModelConfig& m) {
  StateLayout layout;
  for (int64_t l = 0; l < m.layers; ++l) {
    const std::string block = fmt::format("blocks.{}.", l);
    layout.add(block + "att.last", m.width, 0);
    layout.add(block + "att.a", m.attention_width, 0);
    layout.add(block + "att.b", m.attention_width, 0);
    layout.add(block + "att.p", m.attention_width, kWkv4EmptyExponent);
    layout.add(block + "ffn.last", m.width, 0);
  }
  return layout;
}

class Rwkv4 final : public Network {
 public:
  Rwkv4(const ModelConfig& config, std::span<const Parameter> parameters) : config_(config) {
    size_t next = 0;
    const auto take = [&] { return &parameters[next++]; };
    embedding_ = take();
    layers_.resize(config.layers);
    for (Layer& l : layers_) {
      if (&l == &layers_.front()) ln0_weight_ = take(), ln0_bias_ = take();
      l.ln1_weight = take(), l.ln1_bias = take(), l.ln2_weight = take(), l.ln2_bias = take();
      l.time_decay = take(), l.time_first = take();
      l.att_mix_k = take(), l.att_mix_v = take(), l.att_mix_r = take();
      l.att_key = take(), l.att_value = take(), l.att_receptance = take(), l.att_output = take();
      l.ffn_mix_k = take(), l.ffn_mix_r = take();
      l.ffn_key = take(), l.ffn_receptance = take(), l.ffn_value = take();
    }
  }

  Tensor forward(Context& ctx, const PlacedBatch& batch,
                 const ForwardOptions& options) const override {
    Tensor x = embedding(ctx, batch.tokens(), batch.rows(), *embedding_);
    // The residual stream is float32 on every device.
    x = layer_norm_as(ctx, ctx.wide_dtype(), x, *ln0_weight_, *ln0_bias_, config_.norm_epsilon);
    const Sequences sequences = batch.sequences();
    for (int64_t l = 0; l < config_.layers; ++l) {
      const auto body = [this, &ctx, l, sequences, options](const std::vector<Tensor>& in) {
        return std::vector{block(ctx, l, in[0], sequences, options)};
      };
      x = ctx.layer({x}, {x.type()}, body)[0];
    }
    return x;
  }

 private:
  struct Layer {
    const Parameter *ln1_weight, *ln1_bias, *ln2_weight, *ln2_bias;
    const Parameter *time_decay, *time_first, *att_mix_k, *att_mix_v, *att_mix_r;
    const Parameter *att_key, *att_value, *att_receptance, *att_output;
    const Parameter *ffn_mix_k, *ffn_mix_r, *ffn_key, *ffn_receptance, *ffn_value;
  };

  Tensor block(Context& ctx, int64_t l, const Tensor& x, const Sequences& sequences,
               const ForwardOptions& options) const {
    const Layer& p = layers_[l];
    const auto in = [&](int64_t item) {
      return options.state_in ? options.state_in->view(l * kStatesPerLayer + item) : StateView{};
    };
    const auto out = [&](int64_t item) {
      return options.state_out ? options.state_out->view(l * kStatesPerLayer + item) : StateView{};
    };
    const bool drop = options.dropout > 0;

    // Time mixing.
    const Tensor att = layer_norm(ctx, x, *p.ln1_weight, *p.ln1_bias, config_.norm_epsilon);
    const auto mixed =
        token_shift(ctx, att, std::array<Tensor, 3>{*p.att_mix_r, *p.att_mix_k, *p.att_mix_v},
                    sequences, in(kAttLast), out(kAttLast));
    const auto rkv = linear_group(ctx, {{mixed[0], p.att_receptance->weight()},  // (11)
                                        {mixed[1], p.att_key->weight()},         // (12)
                                        {mixed[2], p.att_value->weight()}});     // (13)
    const Tensor wkv =                                                           // (16)
        wkv4(ctx, log_decay(ctx, *p.time_decay), *p.time_first, rkv[1], rkv[2], sequences,
             {in(kA), in(kB), in(kP), out(kA), out(kB), out(kP)});
    const Tensor gated = sigmoid_gate(ctx, rkv[0], wkv);
    const Weight output = p.att_output->weight();  // (17)
    const Tensor y = drop ? dropout(ctx, linear(ctx, gated, output), options.dropout, x)
                          : linear(ctx, gated, output, x);

    // Channel mixing.
    const Tensor ffn = layer_norm(ctx, y, *p.ln2_weight, *p.ln2_bias, config_.norm_epsilon);
    const auto ffn_mixed = token_shift(ctx, ffn, std::array<Tensor, 2>{*p.ffn_mix_r, *p.ffn_mix_k},
                                       sequences, in(kFfnLast), out(kFfnLast));
    const auto rk = linear_group(ctx, {{ffn_mixed[0], p.ffn_receptance->weight()},  // (14)
                                       {ffn_mixed[1], p.ffn_key->weight()}});       // (15)
    const Tensor ffn_v = linear(ctx, squared_relu(ctx, rk[1]), p.ffn_value->weight());
    return drop ? dropout(ctx, sigmoid_gate(ctx, rk[0], ffn_v), options.dropout, y)
                : sigmoid_gate(ctx, rk[0], ffn_v, y);  // (18)
  }

  ModelConfig config_;
  const Parameter *embedding_ = nullptr, *ln0_weight_ = nullptr, *ln0_bias_ = nullptr;
  std::vector<Layer> layers_;
};

std::unique_ptr<Network> make(const ModelConfig& config, std::span<const Parameter> parameters) {
  return std::make_unique<Rwkv4>(config, parameters);
}

}  // namespace

const Generation kRwkv4{"4", &parameters, &state_layout, &make};

}  // namespace rookery
