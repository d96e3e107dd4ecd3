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
#include <utility>
#include <vector>

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

// Throws Error unless every |actual - expected| <= tolerance; NaN is a difference. Returns the
// largest difference as a share of the tolerance.
double compare_elements(const std::string& what, const std::vector<double>& actual,
                        const std::vector<double>& expected, double tolerance);

// What rounding may do to a result: a few units in the last place for each of `terms` independent
// errors, at the scale of the tensor's largest number.
double rounding_tolerance(double epsilon, double terms, double scale);
double largest(const std::vector<double>& values);
double norm(const std::vector<double>& values);

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
  double epsilon = epsilon_of(DType::kF32);  // the coarsest type among the inputs

  // Visitor.
  void input(const char* name, TensorView& view) {
    if (!view) return;
    if (size_of(view.dtype) < 4) epsilon = std::max(epsilon, epsilon_of(view.dtype));
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

// What a rounding error of the tensor `name` is measured against besides its own largest number: an
// argument struct may say so with `double magnitude(std::string_view) const`.
template <class Args>
double magnitude_of(const Args& args, const std::string& name) {
  if constexpr (requires { args.magnitude(name); }) return args.magnitude(name);
  return 0;
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
    double& worst = checker.worst[op];
    try {
      for (const NamedTensor& actual : views.outputs) {
        const double epsilon = std::max(
            shadow_.epsilon, size_of(actual.view.dtype) < 4 ? epsilon_of(actual.view.dtype) : 0.0);
        worst = std::max(worst, compare_one(op + ": " + actual.name, elements(actual.view),
                                            elements(shadow_.outputs.at(actual.name)), epsilon,
                                            args.terms(), magnitude_of(args, actual.name)));
      }
      for (const auto& [name, actual] : views.states_out) {
        worst = std::max(worst, compare_one(op + ": state " + name, elements(actual),
                                            elements(shadow_.states_out.at(name)), shadow_.epsilon,
                                            args.terms(), 0));
      }
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
  static double compare_one(const std::string& what, const std::vector<double>& actual,
                            const std::vector<double>& expected, double epsilon, double terms,
                            double magnitude) {
    return compare_elements(
        what, actual, expected,
        rounding_tolerance(epsilon, terms, std::max(largest(expected), magnitude)));
  }
  Shadow<Args> before_, shadow_;
};

template <class Args, class Forward>
class CheckedBackward {
 public:
  explicit CheckedBackward(Args args)
      : original_(args.forward, DType::kF64), shadow_(args.forward, DType::kC128) {
    args.visit(gradients_);
    // A gradient that is added to: remember what was there.
    for (const auto& [name, view] : gradients_.gradients) {
      before_[name] = view.accumulate ? elements(view) : std::vector<double>(view.count(), 0.0);
    }
  }

  // Every scalar (a test of a small case), or one random direction per tensor.
  void compare(Checker& checker, const std::string& op, const Args& args,
               void (*ref)(const Forward&), bool every_scalar = false) {
    double& worst = checker.worst[op];
    Random random(checker.seed, checker.checked);
    // Added to what was there, a gradient also carries that sum's rounding.
    double global = 0;
    std::map<std::string, std::vector<double>> actual;
    for (const auto& [name, view] : gradients_.gradients) {
      std::vector<double> values = elements(view);
      for (size_t i = 0; i < values.size(); ++i) values[i] -= before_[name][i];
      global = std::hypot(global, norm(values));
      actual[name] = std::move(values);
    }
    for (const auto& [name, view] : gradients_.state_gradients) {
      actual["state " + name] = elements(view);
      global = std::hypot(global, norm(actual["state " + name]));
    }
    try {
      for (const auto& [name, values] : actual) {
        const double scale = std::max({norm(values), 1e-3 * global, 1e-3 * norm(before_[name])});
        worst = std::max(worst, compare_one(op + ": gradient of " + name, name, values, scale,
                                            args.forward.terms(), ref, every_scalar, random));
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

  // d<dy, y> along the perturbation now in the shadow's inputs.
  double derivative(void (*ref)(const Forward&)) {
    ref(shadow_.args);
    double sum = 0;
    for (const auto& [name, dy] : gradients_.upstreams) {
      const Complex* y = shadow_.outputs.at(name).template as<Complex>();
      for (int64_t i = 0; i < dy.count(); ++i) sum += element(dy, i) * (y[i].imag() / kStep);
    }
    for (const auto& [name, dy] : gradients_.state_upstreams) {
      const std::vector<double> upstream = elements(dy);
      const StateView& out = shadow_.states_out.at(name);
      const Complex* y = out.template slot<Complex>(0);
      for (size_t i = 0; i < upstream.size(); ++i) sum += upstream[i] * (y[i].imag() / kStep);
    }
    return sum;
  }

  double compare_one(const std::string& what, const std::string& name,
                     const std::vector<double>& actual, double scale, double terms,
                     void (*ref)(const Forward&), bool every_scalar, Random& random) {
    Complex* x = name.starts_with("state ")
                     ? shadow_.states_in.at(name.substr(6)).template slot<Complex>(0)
                     : shadow_.inputs.at(name).template as<Complex>();
    const auto count = static_cast<int64_t>(actual.size());
    const double tolerance = rounding_tolerance(shadow_.epsilon, terms, scale);
    if (every_scalar) {
      std::vector<double> expected(count);
      for (int64_t i = 0; i < count; ++i) {
        x[i].imag(kStep);
        expected[i] = derivative(ref);
        x[i].imag(0);
      }
      return compare_elements(what, actual, expected, tolerance);
    }
    double along = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double direction = random.next_u32() & 1 ? 1.0 : -1.0;
      x[i].imag(direction * kStep);
      along += actual[i] * direction;
    }
    const double expected = derivative(ref);
    for (int64_t i = 0; i < count; ++i) x[i].imag(0);
    return compare_elements(what + " (random direction)", {along}, {expected}, 4 * tolerance);
  }

  Shadow<Forward> original_, shadow_;
  NamedGradients gradients_;
  std::map<std::string, std::vector<double>> before_;
};

}  // namespace rookery
