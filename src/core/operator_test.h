// What the test of an operator needs: random inputs, and comparison of every SIMD target with the
// definition.
#pragma once

#include <gtest/gtest.h>

#include "core/checked_run.h"
#include "core/context.h"
#include "core/dispatch.h"
#include "hwy/targets.h"

namespace rookery {

class OperatorTest : public ::testing::Test {
 protected:
  OperatorTest() {
    ctx.pool = &pool;
    ctx.arena = &arena;
  }
  ~OperatorTest() override { hwy::SetSupportedTargetsForTest(0); }

  // Normal numbers times `scale` plus `offset`. Odd seeds start one element off a vector's
  // boundary.
  TensorView random(const Shape& shape, double scale = 1, double offset = 0,
                    DType dtype = DType::kF32) {
    Random numbers(17, ++seed_);
    const int64_t shift = seed_ % 2;
    TensorView view{static_cast<char*>(arena.allocate((shape.count() + shift) * size_of(dtype))) +
                        shift * size_of(dtype),
                    dtype, shape};
    for (int64_t i = 0; i < view.count(); ++i) {
      const auto x = static_cast<float>(numbers.normal() * scale + offset);
      if (dtype == DType::kF32) view.as<float>()[i] = x;
      if (dtype == DType::kBF16) view.as<BFloat16>()[i] = to_bfloat16(x);
      if (dtype == DType::kF16) view.as<Float16>()[i] = to_float16(x);
    }
    return view;
  }
  TensorView make(const Shape& shape) { return arena.make(shape, DType::kF32); }
  // A gradient to be overwritten (full of NaN, so that a forgotten element shows) or added to.
  GradView gradient(const Shape& shape, bool accumulate) {
    GradView view;
    static_cast<TensorView&>(view) = random(shape);
    view.accumulate = accumulate;
    if (!accumulate) std::fill_n(view.as<float>(), view.count(), std::nanf(""));
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

  template <class Args>
  void expect_forward(const char* op, const Args& args, RefKernel<Args> ref,
                      DeviceKernel<Args> cpu) {
    on_every_target([&] {
      try {
        CheckedForward<Args> checked(args);
        cpu(args, ctx);
        checked.compare(checker, op, args, ref);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    });
  }
  template <class Args, class Forward = decltype(Args::forward)>
  void expect_backward(const char* op, const Args& args, RefKernel<Forward> ref,
                       DeviceKernel<Args> cpu) {
    on_every_target([&] {
      try {
        CheckedBackward<Args, Forward> checked(args);
        cpu(args, ctx);
        checked.compare(checker, op, args, ref, /*every_scalar=*/true);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    });
  }

  ThreadPool pool{3};
  Arena arena;
  Context ctx;
  Checker checker;

 private:
  int64_t seed_ = 0;
};

}  // namespace rookery

// The forward kernel must have run before EXPECT_BACKWARD: its saved outputs are part of the
// arguments.
#define EXPECT_FORWARD(op, args) \
  expect_forward(#op, (args), &ref::op##_forward<double>, &cpu::op##_forward)
#define EXPECT_BACKWARD(op, args) \
  expect_backward(#op, (args), &ref::op##_forward<std::complex<double>>, &cpu::op##_backward)
