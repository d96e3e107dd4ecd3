// The frame of operators that treat every element by itself, on the CPU: threads, vectors, tails,
// inputs that may be absent, gradients that overwrite or add. An operator's file gives the
// formulas:
//
//   void forward_range(const FooForward& g, int64_t begin, int64_t end) {
//     map_elements(begin, end, g.y, [](int64_t i, auto x) { return ...; }, g.x);
//   }
//   void backward_range(const FooBackward& g, int64_t begin, int64_t end) {
//     map_gradients(begin, end, std::array{g.dx},
//                   [](int64_t i, auto dy, auto x) { return std::array{...}; }, g.dy, g.forward.x);
//   }
//
// in the namespace that is compiled for each SIMD target, and ends in ROOKERY_ELEMENTWISE_CPU.
// Ranges begin at multiples of 16 elements. A formula is given vectors of float32 and the number i
// of the first element in them.
#if defined(ROOKERY_OPS_ELEMENTWISE_CPU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ROOKERY_OPS_ELEMENTWISE_CPU_INL_H_
#undef ROOKERY_OPS_ELEMENTWISE_CPU_INL_H_
#else
#define ROOKERY_OPS_ELEMENTWISE_CPU_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/context.h"
#include "core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rookery {
namespace HWY_NAMESPACE {

// y[i] = formula(i, inputs[i]...) for the elements begin .. end - 1. An input that is not there is
// 0.
template <class Formula, class... Inputs>
HWY_INLINE void map_elements(int64_t begin, int64_t end, const TensorView& y,
                             const Formula& formula, const Inputs&... inputs) {
  const auto map = [&](float* to, auto... from) {
    const auto load_input = [](const float* x, int64_t i, int64_t n) {
      return x == nullptr ? hn::Zero(FloatTag()) : load(x + i, n);
    };
    for_vectors(end - begin, [&](int64_t offset, int64_t n) {
      const int64_t i = begin + offset;
      store(formula(i, load_input(from, i, n)...), to + i, n);
    });
  };
  map(y.as<float>(), inputs.template as<float>()...);
}

// The same with an array of results. Those whose gradient is wanted are written in this order: two
// may be one memory, to which the second is added.
template <size_t kCount, class Formula, class... Inputs>
HWY_INLINE void map_gradients(int64_t begin, int64_t end,
                              const std::array<GradView, kCount>& gradients, const Formula& formula,
                              const Inputs&... inputs) {
  const auto map = [&]<size_t... k>(std::index_sequence<k...>, auto... from) {
    float* const to[] = {gradients[k].template as<float>()...};
    const bool accumulate[] = {gradients[k].accumulate...};
    for_vectors(end - begin, [&](int64_t offset, int64_t n) {
      const int64_t i = begin + offset;
      const std::array<FloatVector, kCount> results = formula(i, load(from + i, n)...);
      ((to[k] == nullptr ? void() : store_gradient(results[k], to[k] + i, n, accumulate[k])), ...);
    });
  };
  map(std::make_index_sequence<kCount>(), inputs.template as<float>()...);
}

}  // namespace HWY_NAMESPACE
}  // namespace rookery
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rookery {

// body(begin, end) on ranges of elements, by all threads; fewer than 4096 elements are not worth
// another thread.
template <class Body>
void for_element_ranges(int64_t count, Context& ctx, const Body& body) {
  constexpr int64_t kUnit = 16, kGrain = 4096 / kUnit;
  ctx.pool->for_ranges((count + kUnit - 1) / kUnit, kGrain, [&](int64_t begin, int64_t end, int) {
    body(begin * kUnit, std::min(end * kUnit, count));
  });
}

}  // namespace rookery

// The launchers of operator `op`. A macro, because Highway makes its tables from names.
#define ROOKERY_ELEMENTWISE_CPU(op, Forward, Backward)                      \
  namespace rookery {                                                       \
  HWY_EXPORT(forward_range);                                                \
  HWY_EXPORT(backward_range);                                               \
  namespace cpu {                                                           \
  void op##_forward(const Forward& g, Context& ctx) {                       \
    for_element_ranges(g.y.count(), ctx, [&](int64_t begin, int64_t end) {  \
      HWY_DYNAMIC_DISPATCH(forward_range)(g, begin, end);                   \
    });                                                                     \
  }                                                                         \
  void op##_backward(const Backward& g, Context& ctx) {                     \
    for_element_ranges(g.dy.count(), ctx, [&](int64_t begin, int64_t end) { \
      HWY_DYNAMIC_DISPATCH(backward_range)(g, begin, end);                  \
    });                                                                     \
  }                                                                         \
  }                                                                         \
  }
#endif  // HWY_ONCE

#endif  // toggle
