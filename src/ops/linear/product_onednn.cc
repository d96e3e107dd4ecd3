// Panels by oneDNN. The library is called single-threaded from our own pool: Debian's build brings
// a second pool (libgomp) that spins when idle, competes with ours, and that the thread sanitizer
// cannot see.

#include <dlfcn.h>

#include <array>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "ops/linear/product_cpu.h"

namespace rookery::cpu {
namespace {

// Tells libgomp that the calling thread works alone. Looked up at run time, so that no OpenMP is
// linked.
void work_alone() {
  thread_local const bool done = [] {
    using SetThreads = void (*)(int);
    if (auto set_threads =
            reinterpret_cast<SetThreads>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) {
      set_threads(1);
    }
    return true;
  }();
  (void)done;
}

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Shapes repeat every layer and step; making a primitive costs tens of microseconds.
using Key = std::array<int64_t, 9>;

dnnl::memory::desc describe(const Operand& operand, int64_t rows, int64_t cols) {
  const dnnl::memory::dims strides = operand.transposed ? dnnl::memory::dims{1, operand.stride}
                                                        : dnnl::memory::dims{operand.stride, 1};
  return {{rows, cols}, dnnl::memory::data_type::bf16, strides};
}

void bf16_product(const Product& p) {
  struct Cached {
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };
  thread_local std::map<Key, Cached> cache;
  thread_local dnnl::stream stream(cpu_engine());
  const Key key{
      p.m,        p.n,         p.k, p.a.stride, p.a.transposed, p.b.stride, p.b.transposed,
      p.c_stride, p.accumulate};
  auto found = cache.find(key);
  if (found == cache.end()) {
    if (cache.size() > 512) cache.clear();  // a server meets many shapes
    const dnnl::memory::desc c({p.m, p.n}, dnnl::memory::data_type::f32,
                               dnnl::memory::dims{p.c_stride, 1});
    dnnl::primitive_attr attributes;
    if (p.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc description(
        dnnl::matmul::desc(describe(p.a, p.m, p.k), describe(p.b, p.k, p.n), c), attributes,
        cpu_engine());
    found = cache.emplace(key, Cached{description, dnnl::matmul(description)}).first;
  }
  const auto& description = found->second.description;
  const auto argument = [&](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, cpu_engine(), const_cast<void*>(data));
  };
  found->second.primitive.execute(
      stream, {{DNNL_ARG_SRC, argument(description.src_desc(), p.a.data)},
               {DNNL_ARG_WEIGHTS, argument(description.weights_desc(), p.b.data)},
               {DNNL_ARG_DST, argument(description.dst_desc(), p.c)}});
}

}  // namespace

void product_onednn(const Product& p) {
  work_alone();
  if (p.a.dtype == DType::kBF16) return bf16_product(p);
  const dnnl_status_t status = dnnl_sgemm(p.a.transposed ? 'T' : 'N', p.b.transposed ? 'T' : 'N',
                                          p.m, p.n, p.k, 1.0f, static_cast<const float*>(p.a.data),
                                          p.a.stride, static_cast<const float*>(p.b.data),
                                          p.b.stride, p.accumulate ? 1.0f : 0.0f, p.c, p.c_stride);
  check(status == dnnl_success) || fail("oneDNN refused a product of {} x {} x {} (status {})", p.m,
                                        p.n, p.k, static_cast<int>(status));
}

}  // namespace rookery::cpu
