// RWKV-4, forward only, in the paper's order (arXiv 2305.13048, section 3). The
// numbers in the comments are its equations; docs/equations.md has the names.

#include "models/rwkv4.h"

#include <array>
#include <cmath>
#include <vector>

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

using enum Role;

// The learning rate's factor, and whether weight decay applies.
constexpr OptimizerGroup kPlain{1, false}, kTwice{2, false}, kThrice{3, false};
constexpr OptimizerGroup kWeightDecay{1, true};

struct Layer {
  Norm ln1, ln2;
  Parameter time_decay, time_first;  // w, u
  Parameter att_mix_k, att_mix_v, att_mix_r;
  Parameter att_key, att_value, att_receptance, att_output;
  Parameter ffn_mix_k, ffn_mix_r;
  Parameter ffn_key, ffn_receptance, ffn_value;
  StateItem att_last, wkv_a, wkv_b, wkv_p, ffn_last;

  // Layer `l`. Each row: name in a checkpoint, member, shape, role, optimizer group, and how it
  // begins (the paper's Appendix E; in_paper() where the released code differs from it).
  void visit_parameters(ParameterTable& table, const ModelConfig& m, int64_t l) {
    const int64_t C = m.width, A = m.attention_width, F = m.ffn_width;
    const auto layer = static_cast<double>(l), layers = static_cast<double>(m.layers);
    const double from_first = m.layers > 1 ? layer / (layers - 1) : 0;  // 0 .. 1
    const double to_last = 1 - layer / layers;                          // 1 .. nearly 0
    const auto width = static_cast<double>(C);
    const auto last = static_cast<double>(std::max<int64_t>(A - 1, 1));
    const double spread = std::sqrt(static_cast<double>(F) / width);
    const auto mix = [=](double i) { return std::pow(i / width, to_last); };
    const auto decay = [=](double i) {
      return -5 + 8 * std::pow(i / last, 0.7 + 1.3 * from_first);
    };
    const Init zero = constant(0);

    const auto time = table.rows(block_name(l), "time mixing");
    const auto channel = table.rows(block_name(l), "channel mixing");
    time.norm("ln1", ln1, C);
    channel.norm("ln2", ln2, C);

    time("att.time_decay", time_decay, {A}, kVector, kTwice, each(decay).around(-1));
    time("att.time_first", time_first, {A}, kVector, kThrice,
         each([](double i) { return std::log(0.3) + 0.5 * (std::fmod(i + 1, 3) - 1); }));
    time("att.time_mix_k", att_mix_k, {1, 1, C}, kVector, kPlain, each(mix).around(0.5));
    time("att.time_mix_v", att_mix_v, {1, 1, C}, kVector, kPlain,
         each([=](double i) { return mix(i) + 0.3 * from_first; }).around(0.5));
    // The paper halves the value, the code the exponent.
    time("att.time_mix_r", att_mix_r, {1, 1, C}, kVector, kPlain,
         each([=](double i) { return std::pow(i / width, 0.5 * to_last); })
             .in_paper(each([=](double i) { return 0.5 * mix(i); }))
             .around(0.5));
    time("att.key.weight", att_key, {A, C}, kMatrix, kWeightDecay, zero);
    time("att.value.weight", att_value, {A, C}, kMatrix, kWeightDecay, orthogonal().in_paper(zero));
    time("att.receptance.weight", att_receptance, {A, C}, kMatrix, kWeightDecay, zero);
    time("att.output.weight", att_output, {C, A}, kMatrix, kWeightDecay,
         zero.in_paper(normal(spread)));

    channel("ffn.time_mix_k", ffn_mix_k, {1, 1, C}, kVector, kPlain, each(mix).around(0.5));
    channel("ffn.time_mix_r", ffn_mix_r, {1, 1, C}, kVector, kPlain, each(mix).around(0.5));
    channel("ffn.key.weight", ffn_key, {F, C}, kMatrix, kWeightDecay, orthogonal().in_paper(zero));
    channel("ffn.receptance.weight", ffn_receptance, {C, C}, kMatrix, kWeightDecay, zero);
    channel("ffn.value.weight", ffn_value, {C, F}, kMatrix, kWeightDecay,
            zero.in_paper(normal(spread)));
  }

  // 5 C numbers (Appendix D).
  void visit_state(StateLayout& layout, const ModelConfig& m, int64_t l) {
    const int64_t C = m.width, A = m.attention_width;
    const std::string block = block_name(l);
    layout.add(block + "att.last", att_last, {C});
    layout.add(block + "att.a", wkv_a, {A});
    layout.add(block + "att.b", wkv_b, {A});
    layout.add(block + "att.p", wkv_p, {A}, kWkv4EmptyExponent);
    layout.add(block + "ffn.last", ffn_last, {C});
  }

  // The residual stream [T, C] -> the same, one block later.
  Tensor forward(Context& ctx, const Tensor& x, const Sequences& sequences,
                 const ForwardOptions& options, float epsilon) const {
    const auto in = [&](const StateItem& item) { return options.in(item); };
    const auto out = [&](const StateItem& item) { return options.out(item); };
    const bool drop = options.dropout > 0;

    // Time mixing.
    const Tensor att = layer_norm(ctx, x, ln1.weight, ln1.bias, epsilon);
    const auto mixed = token_shift(ctx, att, std::array<Tensor, 3>{att_mix_r, att_mix_k, att_mix_v},
                                   sequences, in(att_last), out(att_last));
    const auto rkv = linear_group(ctx, {{mixed[0], att_receptance.weight()},  // (11)
                                        {mixed[1], att_key.weight()},         // (12)
                                        {mixed[2], att_value.weight()}});     // (13)
    const Tensor wkv =                                                        // (16)
        wkv4(ctx, log_decay(ctx, time_decay), time_first, rkv[1], rkv[2], sequences,
             {in(wkv_a), in(wkv_b), in(wkv_p), out(wkv_a), out(wkv_b), out(wkv_p)});
    const Tensor gated = sigmoid_gate(ctx, rkv[0], wkv);
    const Weight output = att_output.weight();  // (17)
    const Tensor y = drop ? dropout(ctx, linear(ctx, gated, output), options.dropout, x)
                          : linear(ctx, gated, output, x);

    // Channel mixing.
    const Tensor ffn = layer_norm(ctx, y, ln2.weight, ln2.bias, epsilon);
    const auto ffn_mixed = token_shift(ctx, ffn, std::array<Tensor, 2>{ffn_mix_r, ffn_mix_k},
                                       sequences, in(ffn_last), out(ffn_last));
    const auto rk = linear_group(ctx, {{ffn_mixed[0], ffn_receptance.weight()},  // (14)
                                       {ffn_mixed[1], ffn_key.weight()}});       // (15)
    const Tensor ffn_v = linear(ctx, squared_relu(ctx, rk[1]), ffn_value.weight());
    return drop ? dropout(ctx, sigmoid_gate(ctx, rk[0], ffn_v), options.dropout, y)
                : sigmoid_gate(ctx, rk[0], ffn_v, y);  // (18)
  }

 private:
  static std::string block_name(int64_t l) { return fmt::format("blocks.{}.", l); }
};

class Rwkv4 final : public Network {
 public:
  explicit Rwkv4(const ModelConfig& config) : config_(config), layers_(config.layers) {}

  void visit_parameters(ParameterTable& table) override {
    const int64_t V = config_.vocabulary, C = config_.width;
    const auto input = table.rows("", "embedding"), output = table.rows("", "head");
    input("emb.weight", embedding_, {V, C}, kLookUp, kWeightDecay, small_uniform());
    input.norm("blocks.0.ln0", ln0_, C);
    for (int64_t l = 0; l < config_.layers; ++l) layers_[l].visit_parameters(table, config_, l);
    output.norm("ln_out", output_norm, C);
    output("head.weight", head, {V, C}, kHead, kWeightDecay, orthogonal(0.5).in_paper(constant(0)));
  }

  void visit_state(StateLayout& layout) override {
    for (int64_t l = 0; l < config_.layers; ++l) layers_[l].visit_state(layout, config_, l);
  }

  Tensor forward(Context& ctx, const PlacedBatch& batch,
                 const ForwardOptions& options) const override {
    const float epsilon = config_.epsilons.layer_norm;
    Tensor x = embedding(ctx, batch.tokens(), batch.rows(), embedding_);
    // The residual stream is float32 on every device.
    x = layer_norm_as(ctx, ctx.wide_dtype(), x, ln0_.weight, ln0_.bias, epsilon);
    const Sequences sequences = batch.sequences();
    for (const Layer& layer : layers_) {
      const auto body = [&ctx, &layer, sequences, options, epsilon](const std::vector<Tensor>& in) {
        return std::vector{layer.forward(ctx, in[0], sequences, options, epsilon)};
      };
      x = ctx.layer({x}, {x.type()}, body)[0];
    }
    return x;
  }

 private:
  ModelConfig config_;
  Parameter embedding_;
  Norm ln0_;
  std::vector<Layer> layers_;
};

void choose_sizes(ModelConfig& config) {
  config.attention_width = config.width;
  config.ffn_width = 4 * config.width;
}

void read_sizes(const StoredShapes& shapes, ModelConfig& config) {
  config.attention_width = shapes.size("blocks.0.att.key.weight", 0);
  config.ffn_width = shapes.size("blocks.0.ffn.key.weight", 0);
}

std::unique_ptr<Network> make(const ModelConfig& config) { return std::make_unique<Rwkv4>(config); }

}  // namespace

const Generation kRwkv4{"4", &choose_sizes, &read_sizes, &make};

}  // namespace rookery
