// One table of parameters per generation drives allocation, initialisation, loading, saving, the
// optimizer's groups, printing and the count of parameters. A generation's `visit_parameters` names
// each parameter once and says there all that is known of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "models/initialisation.h"
#include "ops/linear/linear.h"

namespace rookery {

// What reads a parameter. Its number type, its bfloat16 copy for training and its memory on a GPU
// follow from this, and not from its shape.
enum class Role : uint8_t {
  kVector,  // elementwise operators and norms; always float32, and of any shape
  kMatrix,  // a matrix product
  kLookUp,  // a look-up of rows: the embedding
  kHead,    // the matrix product that makes the logits
};
// Whether matrix products read it.
constexpr bool is_multiplied(Role role) { return role == Role::kMatrix || role == Role::kHead; }

// How fast an optimizer moves a parameter, and whether weight decay applies.
struct OptimizerGroup {
  float rate_multiplier = 1;
  bool weight_decay = false;
};

// Whether checkpoints have a parameter as it is in memory, or with its last two sizes exchanged, as
// they have the low-rank matrices of generations 6 and 7.
enum class Stored : uint8_t { kAsInMemory, kTransposed };

struct ParameterSpec {
  std::string name;  // as the public checkpoints have it
  Shape shape;       // in memory; matrices are [out, in]. Sizes of 1 may be missing in a file
  Role role = Role::kVector;
  OptimizerGroup group;
  Init init;
  std::string_view part;  // "embedding", "time mixing", ... for the report of `info`
  Stored stored = Stored::kAsInMemory;

  // As the public checkpoints have it.
  Shape stored_shape() const;
};

// A parameter of a model.
struct Parameter {
  ParameterSpec spec;
  Tensor value;
  TensorView low;  // bfloat16 copy that products read, while training with float32 masters

  bool padded = false;    // a matrix of a GPU: see Weight
  bool trainable = true;  // false: training leaves it as it is

  operator const Tensor&() const { return value; }  // NOLINT: a vector parameter is its tensor
  Weight weight() const { return {value, low, padded}; }
  // Numbers that it, its copy and its gradient have room for.
  int64_t room() const { return padded ? padded_rows(value.rows()) * value.cols() : value.count(); }
};

// The parameters of a layer norm or a group norm.
struct Norm {
  Parameter weight, bias;
};

// Collects the parameters of a model, in checkpoint order. They must outlive it and stay where they
// are.
class ParameterTable {
 public:
  // Adds parameters of one part of the model, whose names begin with `prefix`.
  class Rows {
   public:
    // One row: describes `parameter`, which is without memory until a Model has given it some.
    void operator()(std::string_view name, Parameter& parameter, const Shape& shape, Role role,
                    const OptimizerGroup& group, Init init,
                    Stored stored = Stored::kAsInMemory) const;
    // The two rows of a norm: NAME.weight and NAME.bias, [width].
    void norm(std::string_view name, Norm& norm, int64_t width) const;

   private:
    friend class ParameterTable;
    Rows(ParameterTable& table, std::string prefix, std::string_view part)
        : table_(table), prefix_(std::move(prefix)), part_(part) {}
    ParameterTable& table_;
    std::string prefix_;
    std::string_view part_;
  };
  Rows rows(std::string prefix, std::string_view part) {
    return Rows(*this, std::move(prefix), part);
  }

  const std::vector<Parameter*>& parameters() const { return parameters_; }

 private:
  std::vector<Parameter*> parameters_;
};

}  // namespace rookery
