// Running an operator beside its definition: what --device check:* and every operator's test use.
// A forward is compared with `ref` in double; a backward with the complex step: perturb an input by
// i * 1e-100, run `ref` in complex<double>, and the imaginary part of <dy, y> is the derivative,
// exact to the last digit because nothing is subtracted (Squire and Trapp 1998).
#pragma once

#include <cmath>
#include <complex>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checking/tolerance.h"
#include "core/context.h"
#include "core/random.h"

namespace rookery {

// One element of any dtype as double.
double element(const TensorView& view, int64_t i);
// All elements of a dense tensor or of a state (slot by slot).
std::vector<double> elements(const TensorView& view);
std::vector<double> elements(const StateView& view);
// The other direction, rounding to the view's type.
void write_elements(const std::vector<double>& values, const TensorView& view);
void write_elements(const std::vector<double>& values, const StateView& view);

// What a visitor ignores unless it says otherwise: values that the forward keeps for the backward,
// and small data that is never differentiated.
struct VisitorDefaults {
  void saved(const char*, TensorView&) {}
  void sequences(Sequences&) {}
  template <class T>
  void mirrored(const char*, Mirrored<T>&, int64_t) {}
};

// A copy of an argument struct in which every tensor is double or complex<double> and owned here.
template <class Args>
class Shadow : public VisitorDefaults {
 public:
  Shadow(const Args& original, DType dtype) : args(original), dtype_(dtype) { args.visit(*this); }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  Args args;
  std::map<std::string, TensorView> inputs, outputs;  // outputs include what is updated in place
  std::map<std::string, TensorView> in_places;
  std::map<std::string, StateView> states_in, states_out;

  // Visitor.
  void input(const char* name, TensorView& view) {
    if (!view) return;
    copy(view);
    inputs[name] = view;
  }
  void output(const char* name, TensorView& view) {
    if (!view) return;
    view.dtype = dtype_;
    view.data = own(view.count());
    outputs[name] = view;
  }
  void in_place(const char* name, TensorView& view) {
    if (!view) return;
    copy(view);
    outputs[name] = in_places[name] = view;
  }
  void state(const char* name, StateView& in, StateView& out) {
    if (in) states_in[name] = copy(in);
    if (out) states_out[name] = copy(out);
  }

 private:
  void* own(int64_t count) {
    const int64_t doubles = count * (dtype_ == DType::kC128 ? 2 : 1);
    return storage_.emplace_back(std::max<int64_t>(doubles, 1), 0.0).data();
  }
  void fill(void* data, const std::vector<double>& values) {
    const int64_t step = dtype_ == DType::kC128 ? 2 : 1;
    for (size_t i = 0; i < values.size(); ++i) static_cast<double*>(data)[i * step] = values[i];
  }
  void copy(TensorView& view) {
    const std::vector<double> values = elements(view);
    view.dtype = dtype_;
    view.data = own(view.count());
    fill(view.data, values);
  }
  StateView copy(StateView& view) {
    const std::vector<double> values = elements(view);
    view.dtype = dtype_;
    view.stride = view.width;
    view.data = own(view.slots * view.width);
    fill(view.data, values);
    return view;
  }

  DType dtype_;
  std::deque<std::vector<double>> storage_;
};

// Collects the tensors of a call by name, without copying.
struct NamedViews : VisitorDefaults {
  std::vector<NamedTensor> inputs, outputs;
  std::vector<std::pair<std::string, StateView>> states_out;

  void input(const char* name, TensorView& view) {
    if (view) inputs.push_back({name, view});
  }
  void output(const char* name, TensorView& view) {
    if (view) outputs.push_back({name, view});
  }
  void in_place(const char* name, TensorView& view) { output(name, view); }
  void state(const char* name, StateView&, StateView& out) {
    if (out) states_out.emplace_back(name, out);
  }
};

struct NamedGradients : VisitorDefaults {
  std::map<std::string, TensorView> upstreams;
  std::map<std::string, GradView> gradients;
  std::map<std::string, StateView> state_upstreams, state_gradients;

  void upstream(const char* name, TensorView& view) {
    if (view) upstreams[name] = view;
  }
  void gradient(const char* name, GradView& view) {
    if (view) gradients[name] = view;
  }
  void state_upstream(const char* name, StateView& view) {
    if (view) state_upstreams[name] = view;
  }
  void state_gradient(const char* name, StateView& view) {
    if (view) state_gradients[name] = view;
  }
};

// Hands over all that the operator read, as it was before the operator ran.
template <class Args>
void report_difference(Checker& checker, const std::string& op, const Shadow<Args>& before) {
  if (!checker.on_difference) return;
  std::vector<NamedTensor> inputs;
  for (const auto& [name, view] : before.inputs) inputs.push_back({name, view});
  for (const auto& [name, view] : before.in_places) inputs.push_back({name, view});
  for (const auto& [name, view] : before.states_in) {
    inputs.push_back({"state " + name, {view.data, view.dtype, {view.slots, view.width}}});
  }
  checker.on_difference(op, inputs);
}

// What the argument struct of a call says of the rounding behind its tensor `name`:
//   double terms() const;                            length of the longest sum (a backward struct
//                                                    without it has its forward's)
//   double exponent(std::string_view name) const;    see Rounding; without: 1
//   double units(std::string_view name) const;       roundings of the whole element; without: 1
//   double roundings(std::string_view name) const;   intermediate roundings to bfloat16; without: 0
//   double magnitude(std::string_view name) const;   see Rounding; without: 0
//   double least(std::string_view name) const;       see Rounding; without: 0
template <class Args>
Rounding rounding_of(const Args& args, const std::string& name, DType dtype) {
  Rounding rounding{.dtype = dtype};
  if constexpr (requires { args.terms(); }) {
    rounding.terms = args.terms();
  } else {
    rounding.terms = args.forward.terms();
  }
  if constexpr (requires { args.exponent(name); }) rounding.exponent = args.exponent(name);
  if constexpr (requires { args.units(name); }) rounding.units = args.units(name);
  if constexpr (requires { args.roundings(name); }) rounding.roundings = args.roundings(name);
  if constexpr (requires { args.least(name); }) rounding.least = args.least(name);
  if constexpr (requires { args.magnitude(name); }) rounding.magnitude = args.magnitude(name);
  return rounding;
}

// States by name, as comparisons see them. An argument struct whose states have a gauge brings the
// actual ones into that of the expected ones: static void in_one_gauge(States& actual, States&
// expected).
using States = std::map<std::string, std::vector<double>>;

// Keeps what a comparison found. A comparison that was refused is an error where the checker says
// so.
void note(Checker& checker, const std::string& op, const std::string& what,
          const Comparison& comparison);

template <class Args>
void compare_states(Checker& checker, const std::string& op, const Args& args, States actual,
                    States expected) {
  if constexpr (requires { args.in_one_gauge(actual, expected); }) {
    args.in_one_gauge(actual, expected);
  } else if constexpr (requires { args.forward.in_one_gauge(actual, expected); }) {
    args.forward.in_one_gauge(actual, expected);
  }
  for (const auto& [name, values] : actual) {
    const std::string what = op + ": state " + name;
    note(checker, op, what,
         compare_rounded(what, values, expected.at(name), rounding_of(args, name, DType::kF32)));
  }
}

// Construct before the device runs (an operator may update in place), compare after.
template <class Args>
class CheckedForward {
 public:
  explicit CheckedForward(const Args& args)
      : before_(args, DType::kF64), shadow_(args, DType::kF64) {}

  void compare(Checker& checker, const std::string& op, Args args, void (*ref)(const Args&)) {
    ref(shadow_.args);
    NamedViews views;
    args.visit(views);
    try {
      for (const NamedTensor& actual : views.outputs) {
        const std::string what = op + ": " + actual.name;
        note(checker, op, what,
             compare_rounded(what, elements(actual.view), elements(shadow_.outputs.at(actual.name)),
                             rounding_of(args, actual.name, actual.view.dtype)));
      }
      States actual, expected;
      for (const auto& [name, view] : views.states_out) {
        actual[name] = elements(view);
        expected[name] = elements(shadow_.states_out.at(name));
      }
      compare_states(checker, op, args, std::move(actual), std::move(expected));
    } catch (const Error&) {
      report_difference(checker, op, before_);
      throw;
    }
    ++checker.checked;
  }

  // Checker::substitute.
  void substitute(Args args, void (*ref)(const Args&)) {
    ref(shadow_.args);
    NamedViews views;
    args.visit(views);
    for (const NamedTensor& output : views.outputs) {
      write_elements(elements(shadow_.outputs.at(output.name)), output.view);
    }
    for (const auto& [name, out] : views.states_out) {
      write_elements(elements(shadow_.states_out.at(name)), out);
    }
  }

 private:
  Shadow<Args> before_, shadow_;
};

// A gradient is compared after it was added to what was there.
template <class Args, class Forward>
class CheckedBackward {
 public:
  explicit CheckedBackward(Args args)
      : original_(args.forward, DType::kF64), shadow_(args.forward, DType::kC128) {
    args.visit(gradients_);
    for (const auto& [name, view] : gradients_.gradients) {
      before_[name] = view.accumulate ? elements(view) : std::vector<double>(view.count(), 0.0);
    }
    for (const auto& [name, view] : gradients_.state_gradients) {
      before_["state " + name].assign(view.slots * view.width, 0.0);
    }
  }

  // Every scalar (a test of a small case); or along a few random directions of each tensor, and a
  // few of its elements.
  void compare(Checker& checker, const std::string& op, const Args& args,
               void (*ref)(const Forward&), bool every_scalar = false) {
    Random random(checker.seed, checker.checked);
    try {
      const auto compare_one = [&](const std::string& name, const std::vector<double>& actual,
                                   const Rounding& rounding) {
        const std::string what = op + ": gradient of " + name;
        note(checker, op, what,
             every_scalar ? compare_rounded(what, actual, every_element(name, ref), rounding)
                          : compare_directions(what, name, actual, rounding, ref, random));
      };
      for (const auto& [name, view] : gradients_.gradients) {
        compare_one(name, elements(view), rounding_of(args, name, view.dtype));
      }
      for (const auto& [name, view] : gradients_.state_gradients) {
        compare_one("state " + name, elements(view), rounding_of(args, name, view.dtype));
      }
    } catch (const Error&) {
      report_difference(checker, op, original_);
      throw;
    }
    ++checker.checked;
  }

 private:
  using Complex = std::complex<double>;
  static constexpr double kStep = 1e-100;
  static constexpr int kDirections = 4;

  // The input whose gradient has this name, in the shadow.
  Complex* input(const std::string& name) {
    return name.starts_with("state ")
               ? shadow_.states_in.at(name.substr(6)).template slot<Complex>(0)
               : shadow_.inputs.at(name).template as<Complex>();
  }

  // d<dy, y> along the perturbation now in the shadow's inputs.
  double derivative(void (*ref)(const Forward&)) {
    ref(shadow_.args);
    double sum = 0;
    for (const auto& [name, dy] : gradients_.upstreams) {
      const Complex* y = shadow_.outputs.at(name).template as<Complex>();
      const std::vector<double> upstream = elements(dy);
      for (size_t i = 0; i < upstream.size(); ++i) sum += upstream[i] * (y[i].imag() / kStep);
    }
    for (const auto& [name, dy] : gradients_.state_upstreams) {
      const std::vector<double> upstream = elements(dy);
      const StateView& out = shadow_.states_out.at(name);
      const Complex* y = out.template slot<Complex>(0);
      for (size_t i = 0; i < upstream.size(); ++i) sum += upstream[i] * (y[i].imag() / kStep);
    }
    return sum;
  }

  // The expected value of one element, what was there included.
  double element_of(const std::string& name, int64_t i, void (*ref)(const Forward&)) {
    Complex& x = input(name)[i];
    x.imag(kStep);
    const double result = before_.at(name)[i] + derivative(ref);
    x.imag(0);
    return result;
  }
  std::vector<double> every_element(const std::string& name, void (*ref)(const Forward&)) {
    std::vector<double> expected(before_.at(name).size());
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] = element_of(name, static_cast<int64_t>(i), ref);
    }
    return expected;
  }

  // Sums of the elements with random signs: an error of the tensor's is one of nearly all of them.
  // And two elements, the actual gradient's largest and one taken at random. Together they also
  // tell the expected tensor's scale.
  Comparison compare_directions(const std::string& what, const std::string& name,
                                const std::vector<double>& actual, const Rounding& rounding,
                                void (*ref)(const Forward&), Random& random) {
    const auto count = static_cast<int64_t>(actual.size());
    if (count == 0) return {};
    Complex* x = input(name);
    std::vector<double> sums, expected_sums;
    double squares = 0;
    for (int direction = 0; direction < kDirections; ++direction) {
      double sum = 0, before = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double sign = random.next_u32() & 1 ? 1.0 : -1.0;
        x[i].imag(sign * kStep);
        sum += actual[i] * sign;
        before += before_.at(name)[i] * sign;
      }
      sums.push_back(sum);
      expected_sums.push_back(before + derivative(ref));
      squares += expected_sums.back() * expected_sums.back();
    }
    for (int64_t i = 0; i < count; ++i) x[i].imag(0);

    int64_t largest_at = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (!(std::abs(actual[i]) <= std::abs(actual[largest_at]))) largest_at = i;  // NaN, too
    }
    const int64_t random_at = static_cast<int64_t>(random.below(static_cast<uint64_t>(count)));
    const std::vector<double> few = {actual[largest_at], actual[random_at]};
    const std::vector<double> expected_few = {element_of(name, largest_at, ref),
                                              element_of(name, random_at, ref)};
    const double rms = std::sqrt(squares / kDirections / static_cast<double>(count));
    const Scale scale{.largest = std::max(rms, largest(expected_few)), .rms = rms};
    return compare_scaled(what, few, expected_few, sums, expected_sums, rounding, scale, count);
  }

  Shadow<Forward> original_, shadow_;
  NamedGradients gradients_;
  std::map<std::string, std::vector<double>> before_;
};

}  // namespace rookery
