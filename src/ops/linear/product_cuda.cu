// Products by cuBLASLt. It thinks in columns: a row-major c = a b is its c' = b' a'.

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "core/cuda/launch.cuh"
#include "ops/linear/product_cuda.h"

namespace rookery::cuda {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;

// The functions of the library that are used.
struct Library {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
};

void* open_library() {
  std::string tried;
  std::vector<std::string> folders{""};
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* value = std::getenv(variable)) {
      folders.push_back(std::string(value) + "/lib64/");
    }
  }
  folders.push_back("/usr/local/cuda/lib64/");
  for (const std::string& folder : folders) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so"}) {
      if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      const char* error = dlerror();
      if (tried.empty() && error != nullptr) tried = error;
    }
  }
  fail(
      "cuBLASLt, which multiplies matrices on the GPU, cannot be opened ({}): install the CUDA "
      "toolkit's libcublas, put its folder into LD_LIBRARY_PATH, or use --device cpu",
      tried);
}

void check_status(cublasStatus_t status, const char* what) {
  check(status == CUBLAS_STATUS_SUCCESS) ||
      fail("cuBLASLt failed in {} (status {})", what, static_cast<int>(status));
}

const Library& library() {
  static const Library opened = [] {
    Library l;
    void* const file = open_library();
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(file, name));
      check(function != nullptr) ||
          fail("libcublasLt has no {}: it should be of CUDA 12 or later", name);
    };
    find(l.create, "cublasLtCreate");
    find(l.destroy, "cublasLtDestroy");
    find(l.desc_create, "cublasLtMatmulDescCreate");
    find(l.desc_destroy, "cublasLtMatmulDescDestroy");
    find(l.desc_set, "cublasLtMatmulDescSetAttribute");
    find(l.layout_create, "cublasLtMatrixLayoutCreate");
    find(l.layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(l.preference_create, "cublasLtMatmulPreferenceCreate");
    find(l.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(l.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(l.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(l.matmul, "cublasLtMatmul");
    return l;
  }();
  return opened;
}

cudaDataType type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      fail("products on the GPU take f32 or bf16, got {}", name_of(dtype));
  }
}

// The largest power of two, up to 256, that divides an address.
int alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return static_cast<int>(address & -address);
}

using Key = std::tuple<int64_t, int64_t, int64_t, DType, DType, bool, bool, int64_t, int64_t,
                       int64_t, int, int, int, int>;

// What one product needs to be run again.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  // Delegates, so that a half-made plan is given back, too.
  Plan(cublasLtHandle_t handle, const DeviceProduct& p);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    const Library& l = library();
    for (cublasLtMatrixLayout_t layout : {a, b, c}) {
      if (layout != nullptr) l.layout_destroy(layout);
    }
    if (desc != nullptr) l.desc_destroy(desc);
  }

 private:
  Plan() = default;
};

// The library as one stream uses it: two streams must not share scratch memory.
struct Products {
  cublasLtHandle_t handle = nullptr;
  Memory workspace;
  std::map<Key, Plan> plans;  // never emptied: a model has a few dozen shapes

  explicit Products(const Stream& stream) : Products() {
    stream.device().make_current();
    check_status(library().create(&handle), "cublasLtCreate");
    workspace = Memory(static_cast<int64_t>(kWorkspace),
                       MemoryKind(MemoryKind::kDevice, stream.device().index()));
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  ~Products() {
    plans.clear();
    if (handle != nullptr) library().destroy(handle);
  }

 private:
  Products() = default;
};

Plan::Plan(cublasLtHandle_t handle, const DeviceProduct& p) : Plan() {
  const Library& l = library();
  check_status(l.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "making a product");
  // Its first operand is our b.
  const cublasOperation_t first = p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  check_status(l.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), "TRANSA");
  check_status(l.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second), "TRANSB");
  const auto layout = [&](cublasLtMatrixLayout_t& to, DType dtype, int64_t rows, int64_t cols,
                          int64_t stride) {
    check_status(l.layout_create(&to, type_of(dtype), rows, cols, stride), "making a matrix");
  };
  layout(a, p.b.dtype, p.b.transposed ? p.k : p.n, p.b.transposed ? p.n : p.k, p.b.stride);
  layout(b, p.a.dtype, p.a.transposed ? p.m : p.k, p.a.transposed ? p.k : p.m, p.a.stride);
  layout(c, p.c_type, p.n, p.m, p.c_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  check_status(l.preference_create(&preference), "making a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
    check_status(l.preference_set(preference, what, &value, sizeof value), "a preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignment_of(p.b.data)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignment_of(p.a.data)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
         static_cast<uint32_t>(alignment_of(p.add == nullptr ? p.c : p.add)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(alignment_of(p.c)));
  // The first answer: to time several would choose differently from run to run.
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = l.heuristic(handle, desc, a, b, c, c, preference, 1, &best, &found);
  l.preference_destroy(preference);
  check(status == CUBLAS_STATUS_SUCCESS && found > 0) ||
      fail("cuBLASLt knows no way to multiply [{}, {}] by [{}, {}] in {} to {} (status {})", p.m,
           p.k, p.k, p.n, name_of(p.a.dtype), name_of(p.c_type), static_cast<int>(status));
  algorithm = best.algo;
}

const Plan& plan_of(Products& products, const DeviceProduct& p) {
  const Key key{p.m,
                p.n,
                p.k,
                p.a.dtype,
                p.c_type,
                p.a.transposed,
                p.b.transposed,
                p.a.stride,
                p.b.stride,
                p.c_stride,
                alignment_of(p.a.data),
                alignment_of(p.b.data),
                alignment_of(p.c),
                p.add == nullptr ? 0 : alignment_of(p.add)};
  return products.plans.try_emplace(key, products.handle, p).first->second;
}

}  // namespace

void product(const DeviceProduct& p, Context& ctx) {
  assert(p.a.dtype == p.b.dtype);
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    // Nothing is added up: c is what is added, or zero.
    const int64_t row = p.n * size_of(p.c_type);
    for (int64_t i = 0; i < p.m; ++i) {
      char* to = static_cast<char*>(p.c) + i * p.c_stride * size_of(p.c_type);
      if (p.add == nullptr) ctx.stream->zero(to, row);
      if (p.add != nullptr && p.add != p.c) {
        ctx.copy(to, static_cast<const char*>(p.add) + i * p.c_stride * size_of(p.c_type), row);
      }
    }
    return;
  }
  auto& products = ctx.stream->kept<Products>();
  const Plan& plan = plan_of(products, p);
  const float one = 1, beta = p.add == nullptr ? 0.0f : 1.0f;
  check_status(
      library().matmul(products.handle, plan.desc, &one, p.b.data, plan.a, p.a.data, plan.b, &beta,
                       p.add == nullptr ? p.c : p.add, plan.c, p.c, plan.c, &plan.algorithm,
                       products.workspace.data(), kWorkspace, stream(ctx)),
      "a product");
}

}  // namespace rookery::cuda
