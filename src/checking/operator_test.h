// What the test of an operator needs: random inputs, and comparison of every SIMD target with the
// definition.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "checking/checked_run.h"
#include "core/context.h"
#include "ops/dispatch.h"
#include "hwy/targets.h"

namespace rookery {

// The tensors of an argument struct on the GPU, as far from a vector's boundary as they are here.
template <class Args>
class OnDevice : public VisitorDefaults {
 public:
  explicit OnDevice(const Args& original) : args(original) {
    if constexpr (requires { args.forward; }) args.forward.visit(*this);
    args.visit(*this);
  }
  // Brings back what the kernels wrote.
  void fetch() {
    for (const Region& region : regions_) {
      if (region.written) cuda::copy(region.host, region.device, region.bytes);
    }
  }
  Args args;

  // Visitor.
  void input(const char*, TensorView& view) { place(view); }
  void output(const char*, TensorView& view) { place(view); }
  void in_place(const char*, TensorView& view) { place(view); }
  void saved(const char*, TensorView& view) { place(view); }
  void upstream(const char*, TensorView& view) { place(view); }
  void gradient(const char*, GradView& view) { place(view); }
  void state(const char*, StateView& in, StateView& out) { place(in), place(out); }
  void state_upstream(const char*, StateView& view) { place(view); }
  void state_gradient(const char*, StateView& view) { place(view); }
  void sequences(Sequences& s) {
    std::vector<int32_t>& rows = rows_.emplace_back();
    for (int64_t i = 0; i < s.count; ++i) {
      rows.insert(rows.end(), s.offsets[i + 1] - s.offsets[i], static_cast<int32_t>(i));
    }
    rows.push_back(0);  // never empty
    mirrored("", s.offsets, s.count + 1);
    mirrored("", s.slot_in, s.count);
    mirrored("", s.slot_out, s.count);
    s.sequence_of_row =
        static_cast<const int32_t*>(device_copy(rows.data(), rows.size() * sizeof(int32_t)));
  }
  template <class T>
  void mirrored(const char*, Mirrored<T>& m, int64_t count) {
    if (m && m.device == nullptr) {
      m.device =
          static_cast<const T*>(device_copy(const_cast<T*>(m.host), count * sizeof(T), false));
    }
  }

 private:
  struct Region {
    void *host, *device;
    int64_t bytes;
    bool written;  // may be: what only the host writes may be constant
  };
  void* device_copy(void* host, int64_t bytes, bool written = true) {
    for (const Region& region : regions_) {
      if (region.host == host && region.bytes >= bytes) return region.device;
      if (region.device == host) return host;  // visited twice
    }
    const Memory& memory = memory_.emplace_back(bytes + 256, MemoryKind::kDevice);
    void* device =
        static_cast<char*>(memory.data()) + reinterpret_cast<uintptr_t>(host) % Arena::kAlignment;
    cuda::copy(device, host, bytes);
    regions_.push_back({host, device, bytes, written});
    return device;
  }
  void place(TensorView& view) {
    if (view) view.data = device_copy(view.data, view.bytes());
  }
  void place(StateView& view) {
    if (!view) return;
    const int64_t span = (view.slots - 1) * view.stride + view.width;
    view.data = device_copy(view.data, span * size_of(view.dtype));
  }
  std::deque<Memory> memory_;
  std::deque<std::vector<int32_t>> rows_;
  std::vector<Region> regions_;
};

// The same call in float32 and with memory of its own: what the CPU makes of the numbers that a
// kernel of the GPU gets in bfloat16.
template <class Args>
class InFloat32 : public VisitorDefaults {
 public:
  explicit InFloat32(const Args& original) : args(original) {
    if constexpr (requires { args.forward; }) args.forward.visit(*this);
    args.visit(*this);
  }
  Args args;

  // Compares what the original's kernel wrote with what was written here, element by element, by
  // the rule for a kernel beside its definition. Throws Error.
  void compare(Checker& checker, const std::string& op, const Args& original) const {
    for (const Written<TensorView>& w : tensors_) {
      const std::string what = op + ": " + w.name;
      note(checker, op, what,
           compare_rounded(what, elements(w.original), elements(w.here),
                           rounding_of(original, w.name, w.original.dtype)));
    }
    States actual, expected;
    for (const Written<StateView>& w : states_) {
      actual[w.name] = elements(w.original);
      expected[w.name] = elements(w.here);
    }
    compare_states(checker, op, original, std::move(actual), std::move(expected));
  }
  // All that the original's kernel wrote.
  std::vector<std::vector<double>> written() const {
    std::vector<std::vector<double>> all;
    for (const Written<TensorView>& w : tensors_) all.push_back(elements(w.original));
    for (const Written<StateView>& w : states_) all.push_back(elements(w.original));
    return all;
  }

  // Visitor.
  void input(const char*, TensorView& view) { copy(view); }
  void saved(const char*, TensorView& view) { copy(view); }
  void upstream(const char*, TensorView& view) { copy(view); }
  void output(const char* name, TensorView& view) { copy_written(name, view); }
  void in_place(const char* name, TensorView& view) { copy_written(name, view); }
  void gradient(const char* name, GradView& view) { copy_written(name, view); }
  void state(const char* name, StateView& in, StateView& out) {
    copy(in);
    copy_written(name, out);
  }
  void state_upstream(const char*, StateView& view) { copy(view); }
  void state_gradient(const char* name, StateView& view) {
    copy_written(std::string("state ") + name, view);
  }

 private:
  template <class View>
  struct Written {
    std::string name;
    View original, here;
  };
  // One place for one memory.
  void* own(void* original, const std::vector<double>& values) {
    for (auto& [from, place] : places_) {
      if (place.data() == original) return original;  // visited twice
    }
    auto [entry, is_new] = places_.try_emplace(original);
    std::vector<float>& place = entry->second;
    if (is_new) {
      place.reserve(values.size() + 1);  // never null
      place.assign(values.begin(), values.end());
    }
    return place.data();
  }
  // Doubles stay where they are: they are only read.
  void copy(TensorView& view) {
    if (!view || size_of(view.dtype) > 4) return;
    view.data = own(view.data, elements(view));
    view.dtype = DType::kF32;
  }
  void copy(StateView& view) {
    if (!view) return;
    const int64_t span = (view.slots - 1) * view.stride + view.width;
    view.data = own(view.data, elements(TensorView{view.data, view.dtype, {span}}));
  }
  void copy_written(const std::string& name, TensorView& view) {
    if (!view) return;
    const TensorView original = view;
    copy(view);
    tensors_.push_back({name, original, view});
  }
  void copy_written(const std::string& name, StateView& view) {
    if (!view) return;
    const StateView original = view;
    copy(view);
    states_.push_back({name, original, view});
  }

  std::map<void*, std::vector<float>> places_;
  std::vector<Written<TensorView>> tensors_;
  std::vector<Written<StateView>> states_;
};

class OperatorTest : public ::testing::Test {
 protected:
  OperatorTest() {
    ctx.pool = &pool;
    ctx.arena = &arena;
    checker.strict = true;
  }
  ~OperatorTest() override { hwy::SetSupportedTargetsForTest(0); }

  static bool has_gpu() { return cuda::unavailable().empty(); }
  // A context of the GPU, with memory of its own.
  Context& device_context(DType dtype = DType::kF32) {
    if (device_arena == nullptr) device_arena = std::make_unique<Arena>(MemoryKind::kDevice);
    device_ctx.use(Device::kCuda, dtype);
    device_ctx.pool = &pool;
    device_ctx.arena = device_arena.get();
    return device_ctx;
  }

  // Normal numbers times `scale` plus `offset`. Odd seeds start one element off a vector's
  // boundary, unless everything shall be `aligned`.
  bool aligned = false;
  TensorView random(const Shape& shape, double scale = 1, double offset = 0,
                    DType dtype = DType::kF32) {
    Random numbers(17, ++seed_);
    return filled(shape, dtype, [&](int64_t) { return numbers.normal() * scale + offset; });
  }
  // Whole numbers from -most to most: their sums and products are exact, in any order.
  TensorView whole_numbers(const Shape& shape, int most, DType dtype = DType::kF32) {
    Random numbers(23, ++seed_);
    return filled(shape, dtype, [&](int64_t) {
      return static_cast<double>(numbers.below(2 * static_cast<uint64_t>(most) + 1)) - most;
    });
  }
  template <class Number>
  TensorView filled(const Shape& shape, DType dtype, Number number) {
    const int64_t shift = aligned ? 0 : seed_ % 2;
    TensorView view{static_cast<char*>(arena.allocate((shape.count() + shift) * size_of(dtype))) +
                        shift * size_of(dtype),
                    dtype, shape};
    std::vector<double> values(view.count());
    for (int64_t i = 0; i < view.count(); ++i) values[i] = number(i);
    write(view, values);
    return view;
  }
  // Rounds the numbers to the view's type.
  static void write(const TensorView& view, const std::vector<double>& values) {
    for (int64_t i = 0; i < view.count(); ++i) {
      const auto value = static_cast<float>(values[i]);
      if (view.dtype == DType::kF32) view.as<float>()[i] = value;
      if (view.dtype == DType::kBF16) view.as<BFloat16>()[i] = to_bfloat16(value);
      if (view.dtype == DType::kF16) view.as<Float16>()[i] = to_float16(value);
    }
  }
  static double rounded(double x, DType dtype) {
    const auto value = static_cast<float>(x);
    if (dtype == DType::kBF16) return to_float(to_bfloat16(value));
    if (dtype == DType::kF16) return to_float(to_float16(value));
    return value;
  }
  TensorView make(const Shape& shape, DType dtype = DType::kF32) {
    return arena.make(shape, dtype);
  }
  // A gradient to be overwritten (full of NaN, so that a forgotten element shows) or added to.
  GradView gradient(const Shape& shape, bool accumulate, DType dtype = DType::kF32) {
    GradView view;
    static_cast<TensorView&>(view) = random(shape, 1, 0, dtype);
    view.accumulate = accumulate;
    if (!accumulate) std::memset(view.data, 0xff, view.bytes());
    return view;
  }
  // A state of `slots` slots with gaps between them.
  StateView state(int64_t slots, int64_t width, double scale = 1, double offset = 0) {
    const TensorView memory = random({slots, width + 3}, scale, offset);
    return {memory.data, memory.dtype, slots, width, width + 3};
  }

  // Runs `check` once for each SIMD target of this machine.
  template <class Check>
  void on_every_target(Check check) {
    hwy::SetSupportedTargetsForTest(0);
    const int64_t supported = hwy::SupportedTargets();
    for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
      const int64_t target = rest & -rest;
      if (((HWY_TARGETS)&target) == 0) continue;  // not compiled
      hwy::SetSupportedTargetsForTest(target);
      SCOPED_TRACE(hwy::TargetName(target));
      EXPECT_NO_THROW(check());
    }
    hwy::SetSupportedTargetsForTest(0);
  }

  // The kernel of the GPU against the definition; nothing happens without a GPU.
  template <class Args>
  void expect_cuda_forward(const char* op, const Args& args, RefKernel<Args> ref,
                           DeviceKernel<Args> kernel) {
    if (kernel == nullptr || !has_gpu()) return;
    SCOPED_TRACE("cuda");
    try {
      CheckedForward<Args> checked(args);
      OnDevice<Args> there(args);
      kernel(there.args, device_context());
      device_context().wait();
      there.fetch();
      checked.compare(checker, op, args, ref);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  template <class Args, class Forward = decltype(Args::forward)>
  void expect_cuda_backward(const char* op, const Args& args, RefKernel<Forward> ref,
                            DeviceKernel<Forward> forward, DeviceKernel<Args> kernel,
                            bool every_scalar = true) {
    if (kernel == nullptr || !has_gpu()) return;
    SCOPED_TRACE("cuda");
    try {
      CheckedBackward<Args, Forward> checked(args);
      OnDevice<Args> there(args);
      forward(there.args.forward, device_context());  // for what it keeps
      kernel(there.args, device_context());
      device_context().wait();
      there.fetch();
      checked.compare(checker, op, args, ref, every_scalar);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }

  // The kernel of the GPU against that of the CPU in float32, and against itself: two runs have
  // equal bits.
  template <class Args>
  void expect_cuda_like_cpu(const char* op, const Args& args,
                            const std::function<void(const Args&)>& cpu,
                            const std::function<void(const Args&)>& cuda) {
    SCOPED_TRACE("cuda");
    try {
      InFloat32<Args> here(args);
      cpu(here.args);
      OnDevice<Args> there(args), again(args);
      cuda(there.args);
      cuda(again.args);
      device_context().wait();
      again.fetch();
      const auto first = here.written();
      there.fetch();
      here.compare(checker, op, args);
      EXPECT_EQ(first, here.written()) << "another run has other bits";
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  template <class Args>
  void expect_cuda_forward_like_cpu(const char* op, const Args& args, DeviceKernel<Args> cpu,
                                    DeviceKernel<Args> cuda) {
    if (cuda == nullptr || !has_gpu()) return;
    expect_cuda_like_cpu<Args>(
        op, args, [&](const Args& g) { cpu(g, ctx); },
        [&](const Args& g) { cuda(g, device_context()); });
  }
  template <class Args, class Forward = decltype(Args::forward)>
  void expect_cuda_backward_like_cpu(const char* op, const Args& args,
                                     DeviceKernel<Forward> cpu_forward, DeviceKernel<Args> cpu,
                                     DeviceKernel<Forward> cuda_forward, DeviceKernel<Args> cuda) {
    if (cuda == nullptr || !has_gpu()) return;
    expect_cuda_like_cpu<Args>(
        op, args,
        [&](const Args& g) {
          cpu_forward(g.forward, ctx);  // for what it keeps
          cpu(g, ctx);
        },
        [&](const Args& g) {
          cuda_forward(g.forward, device_context());
          cuda(g, device_context());
        });
  }

  template <class Args>
  void expect_forward(const char* op, const Args& args, RefKernel<Args> ref, DeviceKernel<Args> cpu,
                      DeviceKernel<Args> cuda) {
    on_every_target([&] {
      try {
        CheckedForward<Args> checked(args);
        cpu(args, ctx);
        checked.compare(checker, op, args, ref);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    });
    expect_cuda_forward<Args>(op, args, ref, cuda);
  }
  template <class Args, class Forward = decltype(Args::forward)>
  void expect_backward(const char* op, const Args& args, RefKernel<Forward> ref,
                       DeviceKernel<Args> cpu, DeviceKernel<Forward> cuda_forward,
                       DeviceKernel<Args> cuda) {
    on_every_target([&] {
      try {
        CheckedBackward<Args, Forward> checked(args);
        cpu(args, ctx);
        checked.compare(checker, op, args, ref, /*every_scalar=*/true);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    });
    expect_cuda_backward<Args, Forward>(op, args, ref, cuda_forward, cuda);
  }

  ThreadPool pool{3};
  Arena arena;
  Context ctx;
  std::unique_ptr<Arena> device_arena;
  Context device_ctx;
  Checker checker;

 private:
  int64_t seed_ = 0;
};

}  // namespace rookery

// The forward kernel must have run before EXPECT_BACKWARD: its saved outputs are part of the
// arguments. Where there is a GPU its kernel is compared, too.
#define EXPECT_FORWARD(op, args)                                              \
  expect_forward(#op, (args), &ref::op##_forward<double>, &cpu::op##_forward, \
                 ROOKERY_CUDA_KERNEL(op##_forward))
// For number types that only the CPU has.
#define EXPECT_CPU_FORWARD(op, args) \
  expect_forward(#op, (args), &ref::op##_forward<double>, &cpu::op##_forward, nullptr)
#define EXPECT_CPU_BACKWARD(op, args)                                                         \
  expect_backward(#op, (args), &ref::op##_forward<std::complex<double>>, &cpu::op##_backward, \
                  nullptr, nullptr)
#define EXPECT_BACKWARD(op, args)                                                             \
  expect_backward(#op, (args), &ref::op##_forward<std::complex<double>>, &cpu::op##_backward, \
                  ROOKERY_CUDA_KERNEL(op##_forward), ROOKERY_CUDA_KERNEL(op##_backward))
// For number types that only the GPU has.
#define EXPECT_CUDA_FORWARD(op, args) \
  expect_cuda_forward(#op, (args), &ref::op##_forward<double>, ROOKERY_CUDA_KERNEL(op##_forward))
#define EXPECT_CUDA_BACKWARD(op, args)                                        \
  expect_cuda_backward(#op, (args), &ref::op##_forward<std::complex<double>>, \
                       ROOKERY_CUDA_KERNEL(op##_forward), ROOKERY_CUDA_KERNEL(op##_backward))
// For number types that only the GPU has, and for widths that the complex step takes minutes for.
#define EXPECT_CUDA_FORWARD_LIKE_CPU(op, args) \
  expect_cuda_forward_like_cpu(#op, (args), &cpu::op##_forward, ROOKERY_CUDA_KERNEL(op##_forward))
#define EXPECT_CUDA_BACKWARD_LIKE_CPU(op, args)                                       \
  expect_cuda_backward_like_cpu(#op, (args), &cpu::op##_forward, &cpu::op##_backward, \
                                ROOKERY_CUDA_KERNEL(op##_forward),                    \
                                ROOKERY_CUDA_KERNEL(op##_backward))
#define SKIP_WITHOUT_GPU()          \
  if (!cuda::unavailable().empty()) \
  GTEST_SKIP() << "SKIPPED: no GPU can be used: " << cuda::unavailable()
