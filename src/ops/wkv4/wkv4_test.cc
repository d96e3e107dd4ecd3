#include <numeric>

#include "checking/operator_test.h"
#include "ops/wkv4/wkv4_ref.h"

namespace rookery {
namespace {

class Wkv4Test : public OperatorTest {
 protected:
  struct Layout {
    std::vector<int64_t> offsets, slot_in, slot_out;
  };

  // Sequences of these lengths; every second one starts from a state, all leave theirs.
  Wkv4Forward make_forward(const std::vector<int64_t>& lengths, int64_t width, double scale = 1,
                           bool with_state = true) {
    Layout& layout = layouts_.emplace_back();
    layout.offsets.push_back(0);
    for (size_t s = 0; s < lengths.size(); ++s) {
      layout.offsets.push_back(layout.offsets.back() + lengths[s]);
      layout.slot_in.push_back(s % 2 == 0 ? static_cast<int64_t>(s) : -1);
      layout.slot_out.push_back(static_cast<int64_t>(s));
    }
    const int64_t rows = layout.offsets.back(), slots = static_cast<int64_t>(lengths.size());
    Wkv4Forward g;
    g.w = random({width}, 0.5, -1);
    for (int64_t c = 0; c < width; ++c) g.w.as<float>()[c] = -std::exp(g.w.as<float>()[c]);
    g.u = random({width});
    g.k = random({rows, width}, scale);
    g.v = random({rows, width});
    g.sequences = {slots, layout.offsets.data(), layout.slot_in.data(), layout.slot_out.data()};
    if (with_state) {
      g.a_in = state(slots, width), g.b_in = state(slots, width, 0.1, 1),
      g.p_in = state(slots, width);
      g.a_out = state(slots, width), g.b_out = state(slots, width), g.p_out = state(slots, width);
    }
    g.y = make({rows, width});
    // Room for either device.
    const int64_t segments = std::max(wkv4_segment_count(g.sequences, Device::kCpu),
                                      wkv4_segment_count(g.sequences, Device::kCuda));
    g.segment_states = make({segments, 3, width});
    return g;
  }
  Wkv4Backward make_backward(const Wkv4Forward& f, bool accumulate) {
    const Shape rows = f.k.shape, vector = f.w.shape;
    Wkv4Backward g{.forward = f, .dy = random(rows)};
    g.dw = gradient(vector, accumulate), g.du = gradient(vector, accumulate);
    g.dk = gradient(rows, accumulate), g.dv = gradient(rows, accumulate);
    g.partial_sums = make({2 * ctx.threads(), 2, f.w.count()});
    g.states = make({ctx.threads(), kWkv4Segment, 3, kWkv4Lanes});
    return g;
  }

  // Decays near 1: what a state carries across a border in time is still there at the next.
  static void set_decay(const Wkv4Forward& g, float w) {
    std::fill_n(g.w.as<float>(), g.w.count(), w);
  }
  static constexpr float kSlow = -0.01f;

  std::deque<Layout> layouts_;
};

TEST_F(Wkv4Test, ForwardMatchesDefinition) {
  for (const int64_t width : {1, 7, 16, 65, 130}) {
    EXPECT_FORWARD(wkv4, make_forward({1}, width));
    EXPECT_FORWARD(wkv4, make_forward({3, 0, 1, 40}, width));
    EXPECT_FORWARD(wkv4, make_forward({5, 9}, width, 1, /*with_state=*/false));
  }
}

// Few channels and long sequences: cut in time over the threads, with states carried from range to
// range.
TEST_F(Wkv4Test, ParallelInTimeMatchesDefinition) {
  for (const double scale : {1.0, 20.0}) {  // e^60 and more: only the scaled form survives
    for (const bool slow : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {}", scale, slow));
      for (const auto& [lengths, width] :
           {std::pair{std::vector<int64_t>{700}, 16}, {{1000, 1, 300, 0, 650}, 5}}) {
        const Wkv4Forward g = make_forward(lengths, width, scale);
        if (slow) set_decay(g, kSlow);
        EXPECT_FORWARD(wkv4, g);
      }
    }
  }
}

// What a sequence's first token left in the state is still seen by its last.
TEST_F(Wkv4Test, ParallelInTimeCarriesAStateToTheEnd) {
  Wkv4Forward g = make_forward({640}, 4, 1, /*with_state=*/false);
  set_decay(g, 0);  // none
  std::fill_n(g.k.as<float>(), g.k.count(), 0.0f);
  std::fill_n(g.v.as<float>(), g.v.count(), 0.0f);
  std::fill_n(g.u.as<float>(), g.u.count(), 0.0f);
  for (int64_t c = 0; c < 4; ++c) g.v.as<float>()[c] = 640;
  cpu::wkv4_forward(g, ctx);
  for (int64_t c = 0; c < 4; ++c) {
    // 640 weights of 1, of which the first one's value is 640.
    EXPECT_NEAR(g.y.as<float>()[639 * 4 + c], 1, 1e-5);
  }
}

// A long sequence cut in time reads its state in one task and writes it in another.
TEST_F(Wkv4Test, ParallelInTimeMayUpdateTheStateInPlace) {
  for (int round = 0; round < 20; ++round) {
    Wkv4Forward g = make_forward({300, 500, 700}, 16);
    const std::vector<int64_t> slots{2, 0, 1};
    g.sequences.slot_in = g.sequences.slot_out = slots.data();
    g.a_out = g.a_in, g.b_out = g.b_in, g.p_out = g.p_in;
    CheckedForward<Wkv4Forward> checked(g);
    cpu::wkv4_forward(g, ctx);
    EXPECT_NO_THROW(checked.compare(checker, "wkv4", g, &ref::wkv4_forward<double>));
  }
}

TEST_F(Wkv4Test, DeterministicDoesNotDependOnTheCutting) {
  ctx.deterministic = true;
  const Wkv4Forward whole = make_forward({400}, 24);
  cpu::wkv4_forward(whole, ctx);
  Wkv4Forward part = whole;  // the same tokens as 150 + 250, the state passed on in place
  int64_t slot = 0, offsets[2] = {0, 150};
  part.a_out = part.a_in, part.b_out = part.b_in, part.p_out = part.p_in;
  part.sequences = {1, offsets, &slot, &slot};
  part.y = make({400, 24});
  part.segment_states = {};
  cpu::wkv4_forward(part, ctx);
  offsets[1] = 250;
  part.k.data = part.k.as<float>() + 150 * 24;
  part.v.data = part.v.as<float>() + 150 * 24;
  TensorView first_y = part.y;
  part.y.data = part.y.as<float>() + 150 * 24;
  cpu::wkv4_forward(part, ctx);
  EXPECT_EQ(std::memcmp(first_y.data, whole.y.data, whole.y.bytes()), 0);
  EXPECT_EQ(elements(part.a_out), elements(whole.a_out));
  EXPECT_EQ(elements(part.p_out), elements(whole.p_out));
}

TEST_F(Wkv4Test, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const double scale : {1.0, 20.0}) {
      const Wkv4Forward f = make_forward({6, 1, 9}, 18, scale, /*with_state=*/false);
      cpu::wkv4_forward(f, ctx);
      EXPECT_BACKWARD(wkv4, make_backward(f, accumulate));
    }
  }
}

TEST_F(Wkv4Test, StateGradientsMatchComplexStep) {
  Wkv4Forward f = make_forward({7, 4, 12}, 5);
  std::iota(layouts_.back().slot_in.begin(), layouts_.back().slot_in.end(), 0);
  cpu::wkv4_forward(f, ctx);
  Wkv4Backward g = make_backward(f, false);
  g.da_out = state(3, 5), g.db_out = state(3, 5);
  g.da_in = state(3, 5), g.db_in = state(3, 5);
  EXPECT_BACKWARD(wkv4, g);
}

// Long sequences, cut in time: along random directions, as there are too many scalars for one by
// one.
TEST_F(Wkv4Test, ParallelInTimeGradientsMatchComplexStep) {
  for (const auto& lengths : {std::vector<int64_t>{900}, {300, 700, 2, 500}}) {
    for (const bool slow : {false, true}) {
      Wkv4Forward f = make_forward(lengths, 6);
      if (slow) set_decay(f, kSlow);
      std::iota(layouts_.back().slot_in.begin(), layouts_.back().slot_in.end(), 0);
      const auto slots = static_cast<int64_t>(lengths.size());
      on_every_target([&] {
        try {
          cpu::wkv4_forward(f, ctx);
          Wkv4Backward g = make_backward(f, false);
          g.da_out = state(slots, 6), g.db_out = state(slots, 6);
          g.da_in = state(slots, 6), g.db_in = state(slots, 6);
          CheckedBackward<Wkv4Backward, Wkv4Forward> checked(g);
          cpu::wkv4_backward(g, ctx);
          checked.compare(checker, "wkv4", g, &ref::wkv4_forward<std::complex<double>>);
        } catch (const Error& error) {
          ADD_FAILURE() << error.what();
        }
      });
    }
  }
}

// The kernels of the GPU beyond what the tests above give them: numbers of two bytes, widths whose
// rows are aligned (72) and are not, borders anywhere in and at the edges of tiles of rows,
// sequences that the blocks of a cluster share.
class Wkv4CudaTest : public Wkv4Test {
 protected:
  static constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

  Wkv4Forward make_typed(const std::vector<int64_t>& lengths, int64_t width, DType dtype,
                         double scale = 1, bool with_state = true) {
    Wkv4Forward g = make_forward(lengths, width, scale, with_state);
    g.k = random(g.k.shape, scale, 0, dtype), g.v = random(g.k.shape, 1, 0, dtype);
    g.y = random(g.k.shape, 1, 0, dtype);
    return g;
  }
  // A gradient of the final states comes in and one of the initial states goes out.
  Wkv4Backward make_typed_backward(const Wkv4Forward& f, bool accumulate) {
    const int64_t width = f.w.count(), slots = f.sequences.count;
    Wkv4Backward g{.forward = f, .dy = random(f.k.shape, 1, 0, f.k.dtype)};
    g.dw = gradient(f.w.shape, accumulate), g.du = gradient(f.w.shape, accumulate);
    for (GradView* rows : {&g.dk, &g.dv}) {
      static_cast<TensorView&>(*rows) = random(f.k.shape, 1, 0, f.k.dtype);
      rows->accumulate = accumulate;
    }
    if (f.a_in) {
      std::iota(layouts_.back().slot_in.begin(), layouts_.back().slot_in.end(), 0);
      g.da_out = state(slots, width), g.db_out = state(slots, width);
      g.da_in = state(slots, width), g.db_in = state(slots, width);
    }
    return g;
  }
  void expect_gradients(const Wkv4Backward& g, bool every_scalar) {
    expect_cuda_backward("wkv4", g, &ref::wkv4_forward<std::complex<double>>, forward_, backward_,
                         every_scalar);
  }

  // Null in a build without CUDA, where no test here runs.
  const DeviceKernel<Wkv4Forward> forward_ = ROOKERY_CUDA_KERNEL(wkv4_forward);
  const DeviceKernel<Wkv4Backward> backward_ = ROOKERY_CUDA_KERNEL(wkv4_backward);
  const std::vector<int64_t> long_lengths_{1, 130, 0, 15, 16, 17, 65, 0, 1500, 128, 127, 1, 1000};
};

TEST_F(Wkv4CudaTest, ForwardMatchesDefinition) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes) {
    for (const int64_t width : {1, 65, 72, 130}) {
      EXPECT_CUDA_FORWARD(wkv4, make_typed({1}, width, dtype));
      EXPECT_CUDA_FORWARD(wkv4, make_typed({3, 0, 1, 40}, width, dtype));
      EXPECT_CUDA_FORWARD(wkv4, make_typed({128}, width, dtype));
      EXPECT_CUDA_FORWARD(wkv4, make_typed({129, 127, 256}, width, dtype, 1, false));
      EXPECT_CUDA_FORWARD(wkv4, make_typed(long_lengths_, width, dtype));
    }
    EXPECT_CUDA_FORWARD(wkv4, make_typed(std::vector<int64_t>(200, 1), 130, dtype));
    for (const int64_t rows : {513, 4000, 4096}) {
      EXPECT_CUDA_FORWARD(wkv4, make_typed({rows}, 64, dtype));
      EXPECT_CUDA_FORWARD(wkv4, make_typed({rows}, 72, dtype, 1, false));
    }
  }
}

TEST_F(Wkv4CudaTest, GradientsMatchComplexStep) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes) {
    for (const bool accumulate : {false, true}) {
      expect_gradients(make_typed_backward(make_typed({9, 1, 0, 8, 7, 11}, 5, dtype), accumulate),
                       true);
      expect_gradients(make_typed_backward(make_typed({40, 100}, 2, dtype, 1, false), accumulate),
                       true);
    }
    for (const int64_t width : {1, 72, 130}) {
      expect_gradients(make_typed_backward(make_typed(long_lengths_, width, dtype), false), false);
      for (const bool with_state : {false, true}) {
        const Wkv4Forward g = make_typed({2048, 1003}, width, dtype, 1, with_state);
        expect_gradients(make_typed_backward(g, false), false);
      }
      expect_gradients(make_typed_backward(make_typed({2048}, width, dtype), true), false);
    }
  }
}

TEST_F(Wkv4CudaTest, UnwantedGradientsAreLeftAlone) {
  SKIP_WITHOUT_GPU();
  const Wkv4Backward all = make_typed_backward(make_typed({70, 30}, 6, DType::kF32), false);
  for (const auto wanted :
       {&Wkv4Backward::dw, &Wkv4Backward::du, &Wkv4Backward::dk, &Wkv4Backward::dv}) {
    Wkv4Backward one{.forward = all.forward, .dy = all.dy};
    one.*wanted = all.*wanted;
    expect_gradients(one, true);
  }
}

// e^60 and more: only the scaled form survives. No decay at all, and none that leaves anything.
TEST_F(Wkv4CudaTest, ExtremesMatchDefinition) {
  SKIP_WITHOUT_GPU();
  checker.strict = false;  // of some gradients of w and u only rounding remains
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    Wkv4Forward g = make_typed({300, 0, 200, 1, 99}, 34, dtype, 20);
    EXPECT_CUDA_FORWARD(wkv4, g);
    expect_gradients(make_typed_backward(g, false), false);
    g = make_typed({1100}, 72, dtype, 20, /*with_state=*/false);
    EXPECT_CUDA_FORWARD(wkv4, g);
    expect_gradients(make_typed_backward(g, false), false);
    {  // What is not finite stays in its channel, and nobody waits for ever.
      Wkv4Forward odd = make_typed({1100}, 72, dtype, 1, /*with_state=*/false);
      const auto set = [&](int64_t row, int64_t c, float x) {
        if (dtype == DType::kF32) odd.k.as<float>()[row * 72 + c] = x;
        if (dtype == DType::kBF16) odd.k.as<BFloat16>()[row * 72 + c] = to_bfloat16(x);
      };
      set(5, 0, HUGE_VALF), set(300, 1, NAN), set(700, 2, -HUGE_VALF);
      OnDevice<Wkv4Backward> there(make_typed_backward(odd, false));
      forward_(there.args.forward, device_context());
      backward_(there.args, device_context());
      device_context().wait();
      for (const TensorView& view :
           {there.args.forward.y, static_cast<const TensorView&>(there.args.dk)}) {
        const std::vector<double> x = elements(view);
        for (size_t i = 0; i < x.size(); ++i) {
          if (i % 72 < 2) continue;
          ASSERT_TRUE(std::isfinite(x[i])) << i;
        }
      }
    }
    for (const float w : {0.0f, -1e4f, -1e38f, -HUGE_VALF}) {
      SCOPED_TRACE(w);
      g = make_typed({300, 0, 200, 1, 99}, 34, dtype);
      set_decay(g, w);
      if (std::isfinite(w)) EXPECT_CUDA_FORWARD(wkv4, g);
      OnDevice<Wkv4Backward> there(make_typed_backward(g, false));
      forward_(there.args.forward, device_context());
      backward_(there.args, device_context());
      device_context().wait();
      for (const TensorView& view :
           {there.args.forward.y, static_cast<const TensorView&>(there.args.dw),
            static_cast<const TensorView&>(there.args.dk)}) {
        for (const double x : elements(view)) ASSERT_TRUE(std::isfinite(x)) << w;
      }
      if (w < -1e4f) continue;  // the definition's own exponents overflow
      expect_gradients(make_typed_backward(g, false), false);
    }
  }
}

// Rows whose sums fit one scale beside rows, states and gradients that do not.
TEST_F(Wkv4CudaTest, ScalesMeet) {
  SKIP_WITHOUT_GPU();
  checker.strict = false;  // of some gradients of w and u only rounding remains
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    for (const double scale : {4.0, 6.0, 8.0}) {
      for (const int64_t width : {2, 8}) {
        const Wkv4Forward g = make_typed({700, 72, 301}, width, dtype, scale);
        EXPECT_CUDA_FORWARD(wkv4, g);
        expect_gradients(make_typed_backward(g, false), false);
      }
    }
    for (const double step : {20.0, 45.0}) {  // every 96 rows, up and down
      const Wkv4Forward g = make_typed({72, 800, 296}, 72, dtype);
      set_decay(g, -0.01f);
      for (int64_t i = 0; i < g.k.count(); ++i) {
        const double level = i / 72 / 96 % 2 == 0 ? step : -step;
        const auto x = static_cast<float>(level + std::cos(static_cast<double>(i)));
        if (dtype == DType::kF32) g.k.as<float>()[i] = x;
        if (dtype == DType::kBF16) g.k.as<BFloat16>()[i] = to_bfloat16(x);
      }
      EXPECT_CUDA_FORWARD(wkv4, g);
      expect_gradients(make_typed_backward(g, false), false);
    }
    {
      const Wkv4Forward g = make_typed({300, 212}, 34, dtype, 1, /*with_state=*/false);
      Wkv4Backward large = make_typed_backward(g, false);
      large.dy = random(g.k.shape, 1e15, 0, dtype);
      expect_gradients(large, false);
    }
    for (const float u : {15.0f, -15.0f, 30.0f, -30.0f}) {
      const Wkv4Forward g = make_typed({300, 212}, 34, dtype);
      std::fill_n(g.u.as<float>(), g.u.count(), u);
      EXPECT_CUDA_FORWARD(wkv4, g);
      expect_gradients(make_typed_backward(g, false), false);
    }
  }
}

// Rounds that have rows for some of their warps only: the others have none to write.
TEST_F(Wkv4CudaTest, WarpsWithoutRowsWriteNothing) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes) {
    for (const int64_t width : {32, 34}) {
      const Wkv4Forward g = make_typed({40, 40, 70}, width, dtype, 1, /*with_state=*/false);
      EXPECT_CUDA_FORWARD(wkv4, make_typed({100, 30, 24}, width, dtype, 1, false));
      expect_gradients(make_typed_backward(g, false), false);
    }
  }
}

// One block reads a sequence's state, another writes it.
TEST_F(Wkv4CudaTest, StatesAreUpdatedInPlace) {
  SKIP_WITHOUT_GPU();
  for (int round = 0; round < 20; ++round) {
    Wkv4Forward g = make_typed({300, 30, 40, 500, 7, 700}, 66, DType::kBF16);
    const std::vector<int64_t> slots{2, 0, 1, 5, 4, 3};
    g.sequences.slot_in = g.sequences.slot_out = slots.data();
    g.a_out = g.a_in, g.b_out = g.b_in, g.p_out = g.p_in;
    EXPECT_CUDA_FORWARD(wkv4, g);
  }
}

TEST_F(Wkv4CudaTest, TwoRunsGiveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const Wkv4Backward g = make_typed_backward(make_typed({5000, 1, 3000}, 130, DType::kBF16), false);
  std::vector<std::vector<double>> first;
  for (int round = 0; round < 5; ++round) {
    OnDevice<Wkv4Backward> there(g);
    forward_(there.args.forward, device_context());
    backward_(there.args, device_context());
    device_context().wait();
    std::vector<std::vector<double>> results;
    for (const TensorView& view :
         {there.args.forward.y, static_cast<TensorView&>(there.args.dw),
          static_cast<TensorView&>(there.args.du), static_cast<TensorView&>(there.args.dk),
          static_cast<TensorView&>(there.args.dv)}) {
      results.push_back(elements(view));
    }
    results.push_back(elements(there.args.da_in));
    results.push_back(elements(there.args.forward.a_out));
    if (round == 0) first = results;
    for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(results[i] == first[i]) << i;
  }
}

TEST_F(Wkv4CudaTest, DeterministicDoesNotDependOnTheCutting) {
  SKIP_WITHOUT_GPU();
  const Wkv4Forward whole = make_typed({400}, 24, DType::kF32);
  Wkv4Forward part = whole;  // the same tokens as 150 + 250, the state passed on in place
  part.segment_states = {};
  int64_t slot = 0, offsets[2] = {0, 150};
  part.sequences = {1, offsets, &slot, &slot};
  part.a_out = part.a_in, part.b_out = part.b_in, part.p_out = part.p_in;
  const auto run = [&](const Wkv4Forward& g) {
    OnDevice<Wkv4Forward> there(g);
    Context& device = device_context();
    device.deterministic = true;
    forward_(there.args, device);
    device.deterministic = false;
    device_context().wait();
    there.fetch();
  };
  run(whole);
  const std::vector<double> expected = elements(whole.y), state = elements(whole.a_out);
  for (TensorView* rows : {&part.k, &part.v, &part.y}) rows->shape = {150, 24};
  run(part);
  offsets[1] = 250;
  for (TensorView* rows : {&part.k, &part.v, &part.y}) {
    rows->data = rows->as<float>() + 150 * 24;
    rows->shape = {250, 24};
  }
  run(part);
  EXPECT_TRUE(elements(whole.y) == expected);  // `part` wrote it again
  EXPECT_TRUE(elements(part.a_out) == state);
}

}  // namespace
}  // namespace rookery
