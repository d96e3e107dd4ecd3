// The one place where a device and a number type become a call.
//
// An operator `foo` declares, in its folder,
//   struct FooForward { ...; template <class V> void visit(V& v); double terms() const; };
//   struct FooBackward { FooForward forward; ...; template <class V> void visit(V& v); };
//   namespace ref { template <class T> void foo_forward(const FooForward&); }
//   namespace cpu { void foo_forward(const FooForward&, Context&); and foo_backward }, namespace
//   cuda likewise
// and runs them with ROOKERY_FORWARD(ctx, foo, args) and ROOKERY_BACKWARD(ctx, foo, args).
//
// FooForward::visit names every tensor of the call:
//   v.input("x", x)                       read, may have a gradient
//   v.output("y", y)                      written
//   v.state("s", in, out)                 a recurrent state, read and written
// FooBackward::visit names the gradients after the tensors they belong to:
//   v.upstream("y", dy)                   read
//   v.gradient("x", dx)                   written or added to
//   v.state_upstream("s", dout)  v.state_gradient("s", din)
//   v.saved("s", s)                       kept by the forward for the backward
//   v.sequences(sequences), v.mirrored("ids", ids, count)   small data without gradients //
// Numbers are not visited. terms() is the length of the longest sum behind one output element: it
// sets the tolerance of every comparison.
#pragma once

#include <chrono>
#include <complex>
#include <type_traits>

#include "checking/checked_run.h"
#include "core/context.h"

namespace rookery {

// Not deduced: the arguments alone say which kernel is meant.
template <class Args>
using RefKernel = void (*)(const std::type_identity_t<Args>&);
template <class Args>
using DeviceKernel = void (*)(const std::type_identity_t<Args>&, Context&);

class ProfileScope {
 public:
  // On a GPU an operator's work is waited for, so that its time is its own.
  ProfileScope(const Context& ctx, const char* name) : ctx_(ctx), name_(name), start_(now()) {}
  ~ProfileScope() {
    if (ctx_.profile == nullptr) return;
    const auto end = now();
    Profile::Entry& entry = ctx_.profile->entries[name_];
    entry.seconds += std::chrono::duration<double>(end - start_).count();
    ++entry.calls;
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  std::chrono::steady_clock::time_point now() const {
    if (ctx_.profile != nullptr) ctx_.wait();
    return std::chrono::steady_clock::now();
  }
  const Context& ctx_;
  const char* name_;
  std::chrono::steady_clock::time_point start_;
};

template <class Args>
void run_on_device(Context& ctx, const char* name, const Args& args, DeviceKernel<Args> cpu,
                   DeviceKernel<Args> cuda) {
  const ProfileScope scope(ctx, name);
  if (ctx.device == Device::kCuda) {
    check(cuda != nullptr) ||
        fail("{} cannot run on CUDA: this program was built without it; use --device cpu", name);
    ctx.stream->device().make_current();
    cuda(args, ctx);
  } else {
    cpu(args, ctx);
  }
}

template <class Args>
void run_forward(Context& ctx, const char* name, const Args& args, RefKernel<Args> ref_double,
                 RefKernel<Args> ref_complex, DeviceKernel<Args> cpu, DeviceKernel<Args> cuda) {
  switch (ctx.device.kind) {
    case Device::kMeta:
      return;
    case Device::kRef:
      return ctx.dtype == DType::kC128 ? ref_complex(args) : ref_double(args);
    case Device::kCpu:
    case Device::kCuda:
      break;
  }
  if (ctx.checker == nullptr) return run_on_device(ctx, name, args, cpu, cuda);
  ctx.wait();
  CheckedForward<Args> checked(args);
  run_on_device(ctx, name, args, cpu, cuda);
  ctx.wait();
  if (ctx.checker->substitute) return checked.substitute(args, ref_double);
  checked.compare(*ctx.checker, name, args, ref_double);
}

template <class Args, class Forward = decltype(Args::forward)>
void run_backward(Context& ctx, const char* name, const Args& args, RefKernel<Forward> ref_complex,
                  DeviceKernel<Args> cpu, DeviceKernel<Args> cuda) {
  switch (ctx.device.kind) {
    case Device::kMeta:
      return;
    case Device::kRef:
      fail("{}: the definitions have no backward; the complex step is their gradient", name);
    case Device::kCpu:
    case Device::kCuda:
      break;
  }
  if (ctx.checker == nullptr) return run_on_device(ctx, name, args, cpu, cuda);
  ctx.wait();
  CheckedBackward<Args, Forward> checked(args);
  run_on_device(ctx, name, args, cpu, cuda);
  ctx.wait();
  checked.compare(*ctx.checker, name, args, ref_complex);
}

}  // namespace rookery

#ifdef ROOKERY_CUDA
#define ROOKERY_CUDA_KERNEL(fn) &cuda::fn
#else
#define ROOKERY_CUDA_KERNEL(fn) nullptr
#endif

// Macros because a namespace cannot be an argument.
#define ROOKERY_FORWARD(ctx, op, args)                                                 \
  ::rookery::run_forward((ctx), #op, (args), &ref::op##_forward<double>,               \
                         &ref::op##_forward<std::complex<double>>, &cpu::op##_forward, \
                         ROOKERY_CUDA_KERNEL(op##_forward))
#define ROOKERY_BACKWARD(ctx, op, args)                                                  \
  ::rookery::run_backward((ctx), #op ".backward", (args),                                \
                          &ref::op##_forward<std::complex<double>>, &cpu::op##_backward, \
                          ROOKERY_CUDA_KERNEL(op##_backward))
