// Layers: what they return, what they keep in memory, and their gradients with and without gradient
// checkpointing.

#include "core/context.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "core/random.h"
#include "ops/dropout/dropout.h"
#include "ops/linear/linear.h"
#include "ops/sigmoid_gate/sigmoid_gate.h"
#include "ops/squared_relu/squared_relu.h"

namespace rookery {
namespace {

using Tensors = std::vector<Tensor>;

class LayerTest : public ::testing::Test {
 protected:
  static constexpr int64_t kRows = 10, kWidth = 6;

  LayerTest() {
    ctx.pool = &pool;
    ctx.arena = &arena;
  }

  Tensor random_tensor(const Shape& shape) {
    const Tensor tensor = {parameters.make(shape, DType::kF32), ++ctx.last_id};
    for (int64_t i = 0; i < tensor.count(); ++i) {
      tensor.as<float>()[i] = static_cast<float>(random.normal() / 2);
    }
    return tensor;
  }

  // What a computation of x gives, and the gradient of the sum of its squares, halved, by tensor.
  struct Result {
    std::vector<float> y;
    std::map<int64_t, std::vector<float>> gradients;
    int64_t peak = 0;

    bool operator==(const Result& other) const {
      return y == other.y && gradients == other.gradients;
    }
  };
  enum Mode { kWithoutTape, kTape, kCheckpointing };
  Result run(Mode mode, const Tensors& wanted, const std::function<Tensor()>& forward) {
    Result result;
    arena.reset();
    Tape tape;
    ctx.tape = mode == kWithoutTape ? nullptr : &tape;
    ctx.gradient_checkpointing = mode == kCheckpointing;
    ctx.random_stream = 0;
    for (const Tensor& tensor : wanted) {
      std::vector<float>& gradient = result.gradients[tensor.id];
      gradient.assign(tensor.count(), 0);
      tape.keep_gradient(tensor, {gradient.data(), DType::kF32, tensor.shape}, false);
    }
    const int64_t before = ctx.last_id;
    const Tensor y = forward();
    result.y.assign(y.as<float>(), y.as<float>() + y.count());
    if (mode != kWithoutTape) {
      const GradView dy = tape.gradient_out(y);
      std::copy(result.y.begin(), result.y.end(), dy.as<float>());
      tape.run_backward();
    }
    EXPECT_GT(ctx.last_id, before);
    EXPECT_EQ(ctx.tape, mode == kWithoutTape ? nullptr : &tape);
    ctx.tape = nullptr;
    return result;
  }
  // The three modes agree; returns the result with a tape.
  Result run_all(const Tensors& wanted, const std::function<Tensor()>& forward) {
    const Result plain = run(kTape, wanted, forward);
    EXPECT_EQ(plain, run(kCheckpointing, wanted, forward));
    EXPECT_EQ(plain.y, run(kWithoutTape, wanted, forward).y);
    return plain;
  }

  ThreadPool pool{2};
  Arena arena, parameters;
  Random random{5};
  Context ctx;
  Tensor x = random_tensor({kRows, kWidth}), w0 = random_tensor({kWidth, kWidth}),
         w1 = random_tensor({kWidth, kWidth});
  const TensorType type = x.type();
};

// As the first value of RWKV-7: layer 0 gives it, the others read it.
TEST_F(LayerTest, ALaterLayerReadsWhatTheFirstGave) {
  const Weight first{w0, {}}, later{w1, {}};
  const auto forward = [&](bool in_layers) {
    const auto layer0 = [&](const Tensors& in) {
      const Tensor v = linear(ctx, in[0], first);
      return Tensors{dropout(ctx, squared_relu(ctx, v), 0.3f, in[0]), v};
    };
    const auto layer = [&](const Tensors& in) {
      return Tensors{sigmoid_gate(ctx, linear(ctx, in[0], later), in[1], in[0])};
    };
    Tensors xv = in_layers ? ctx.layer({x}, {type, type}, layer0) : layer0({x});
    for (int i = 0; i < 3; ++i) xv[0] = in_layers ? ctx.layer(xv, {type}, layer)[0] : layer(xv)[0];
    return xv[0];
  };
  const Result result = run_all({x, w0, w1}, [&] { return forward(true); });
  EXPECT_EQ(result, run(kTape, {x, w0, w1}, [&] { return forward(false); }));
  for (const auto& [id, gradient] : result.gradients) {
    EXPECT_NE(gradient, std::vector<float>(gradient.size(), 0)) << id;
  }
}

TEST_F(LayerTest, PassesThroughWhatItWasGiven) {
  const Weight weight{w0, {}};
  // The input in front of a new tensor, behind it, twice, and alone; a new tensor twice.
  const std::vector<std::function<Tensors(const Tensors&)>> bodies = {
      [&](const Tensors& in) {
        return Tensors{in[0], linear(ctx, in[0], weight)};
      },
      [&](const Tensors& in) {
        return Tensors{linear(ctx, in[0], weight), in[0]};
      },
      [&](const Tensors& in) {
        return Tensors{in[0], in[0]};
      },
      [&](const Tensors& in) { return Tensors{in[0]}; },
      [&](const Tensors& in) {
        const Tensor y = linear(ctx, in[0], weight);
        return Tensors{y, y};
      }};
  for (size_t i = 0; i < bodies.size(); ++i) {
    SCOPED_TRACE(i);
    const auto forward = [&](bool in_layers) {
      const Tensor y = squared_relu(ctx, x);
      const std::vector<TensorType> types(i == 3 ? 1 : 2, type);
      const Tensors out = in_layers ? ctx.layer({y}, types, bodies[i]) : bodies[i]({y});
      for (size_t j = 0; j < out.size(); ++j) {
        EXPECT_EQ(out[j].id == y.id, out[j].data == y.data);
        EXPECT_EQ(out[j].id == y.id, i == 2 || i == 3 || j == i);
      }
      EXPECT_EQ(i == 2 || i == 4, out.size() == 2 && out[0].data == out[1].data);
      return sigmoid_gate(ctx, out.front(), out.back(), y);
    };
    EXPECT_EQ(run_all({x, w0}, [&] { return forward(true); }),
              run(kTape, {x, w0}, [&] { return forward(false); }));
  }
}

TEST_F(LayerTest, AnOutputMayBeOfNoUse) {
  const Weight weight{w0, {}};
  const auto body = [&](const Tensors& in) {
    return Tensors{squared_relu(ctx, in[0]), linear(ctx, in[0], weight)};
  };
  const Result result = run_all({x, w0}, [&] { return ctx.layer({x}, {type, type}, body)[0]; });
  EXPECT_EQ(result.gradients.at(w0.id), std::vector<float>(w0.count(), 0));
  EXPECT_EQ(result, run(kTape, {x, w0}, [&] { return squared_relu(ctx, x); }));
}

TEST_F(LayerTest, OutputsHaveShapesAndTypesOfTheirOwn) {
  ctx.arena = &arena;
  const Tensor wide = random_tensor({2 * kWidth, kWidth});
  const auto body = [&](const Tensors& in) {
    return Tensors{linear(ctx, in[0], Weight{wide, {}}), ctx.make({3}, DType::kF64)};
  };
  const Tensors out =
      ctx.layer({x}, {{{kRows, 2 * kWidth}, DType::kF32}, {{3}, DType::kF64}}, body);
  EXPECT_EQ(out[0].shape, (Shape{kRows, 2 * kWidth}));
  EXPECT_EQ(out[1].dtype, DType::kF64);
}

TEST_F(LayerTest, RefusesOtherResultsThanDeclared) {
  const auto two = [](const Tensors& in) { return Tensors{in[0], in[0]}; };
  const auto none = [](const Tensors&) { return Tensors{}; };
  const auto error_of = [&](const std::vector<TensorType>& types, const Context::Layer& body) {
    try {
      ctx.layer({x}, types, body);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  for (const Mode mode : {kWithoutTape, kTape, kCheckpointing}) {
    Tape tape;
    ctx.tape = mode == kWithoutTape ? nullptr : &tape;
    ctx.gradient_checkpointing = mode == kCheckpointing;
    EXPECT_EQ(error_of({type, type}, two), "");
    EXPECT_EQ(error_of({type}, two), "a layer returned 2 tensors, 1 were declared");
    EXPECT_EQ(error_of({type}, none), "a layer returned 0 tensors, 1 were declared");
    EXPECT_EQ(error_of({type, {{kWidth}, DType::kF32}}, two),
              "a layer returned f32 [10, 6] as tensor 1, declared as f32 [6]");
    EXPECT_EQ(error_of({{x.shape, DType::kBF16}, type}, two),
              "a layer returned f32 [10, 6] as tensor 0, declared as bf16 [10, 6]");
    EXPECT_EQ(ctx.tape, mode == kWithoutTape ? nullptr : &tape);
  }
}

TEST_F(LayerTest, ReleasesWhatItDoesNotReturn) {
  const int64_t bytes = (x.bytes() + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  const auto body = [&](const Tensors& in) {
    const Tensor a = squared_relu(ctx, in[0]), b = squared_relu(ctx, a);
    return Tensors{squared_relu(ctx, b), in[0]};
  };
  Tape tape;
  for (const Mode mode : {kWithoutTape, kCheckpointing}) {
    ctx.tape = mode == kWithoutTape ? nullptr : &tape;
    ctx.gradient_checkpointing = mode == kCheckpointing;
    // The new output is kept, that which is passed through needs nothing.
    const int64_t before = arena.mark().used;
    ctx.layer({x}, {type, type}, body);
    EXPECT_EQ(arena.mark().used, before + bytes);
    // On the way back, too.
    const int64_t peak = arena.peak();
    tape.run_backward();
    EXPECT_EQ(arena.mark().used, before + bytes);
    EXPECT_EQ(arena.peak(), peak);
  }
}

TEST_F(LayerTest, PlanningTakesTheSameMemory) {
  const Weight weight{w0, {}};
  const auto forward = [&](Context& on) {
    const auto layer0 = [&](const Tensors& in) {
      const Tensor v = linear(on, in[0], weight);
      return Tensors{squared_relu(on, v), v};
    };
    const auto layer = [&](const Tensors& in) {
      return Tensors{sigmoid_gate(on, in[0], in[1], in[0]), in[1]};
    };
    Tensors xv = on.layer({x}, {type, type}, layer0);
    for (int i = 0; i < 3; ++i) xv = on.layer(xv, {type, type}, layer);
    return xv[0];
  };
  for (const Mode mode : {kWithoutTape, kTape, kCheckpointing}) {
    int64_t peak[2], tape_peak[2];
    for (const bool plan : {false, true}) {
      Arena used(plan ? MemoryKind::kPlan : MemoryKind::kHost);
      Tape tape(used.kind());
      Context on = ctx;
      on.device = plan ? Device::kMeta : Device::kCpu;
      on.arena = &used;
      on.tape = mode == kWithoutTape ? nullptr : &tape;
      on.gradient_checkpointing = mode == kCheckpointing;
      const Tensor y = forward(on);
      if (mode != kWithoutTape) {
        const GradView dy = tape.gradient_out(y);
        if (!plan) std::fill_n(dy.as<float>(), dy.count(), 1.0f);
        tape.run_backward();
      }
      peak[plan] = used.peak();
      tape_peak[plan] = tape.peak_bytes();
    }
    EXPECT_EQ(peak[0], peak[1]) << mode;
    EXPECT_EQ(tape_peak[0], tape_peak[1]) << mode;
  }
}

}  // namespace
}  // namespace rookery
